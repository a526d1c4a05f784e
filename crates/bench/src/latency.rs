//! From commit to visible, without looking again and again: each commit changes another row, and afterwards both rows say when
//! the transactions that wrote them committed. Source and target are on one machine, with one clock.

use std::collections::HashMap;

use lockstep_connect::Session;

use crate::statistics::quantile;

/// The row that a change writes and the row that follows it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// Table, and the column that holds the key.
    pub(crate) source: (&'static str, &'static str),
    pub(crate) target: (String, &'static str),
    /// The key's type.
    pub(crate) key_type: &'static str,
}

impl Pair {
    /// A product and its row of the search view.
    pub(crate) fn product() -> Self {
        Self { source: ("custom_posts", "id"), target: ("read_model.product_search".to_owned(), "id"), key_type: "uuid" }
    }

    /// A product and its copy.
    pub(crate) fn product_copy() -> Self {
        Self { target: ("custom_posts".to_owned(), "id"), ..Self::product() }
    }
}

/// How the target tells when a row became visible.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    /// By the commit timestamp of its writer.
    Commit,
    /// By the commit records of the WAL from this position on: what is applied from a subscription has the origin's timestamp.
    Wal(String),
}

/// Milliseconds from commit to visible, one for each key.
#[allow(clippy::cast_precision_loss)]
pub(crate) async fn milliseconds(
    source: &Session,
    target: &Session,
    pair: &Pair,
    keys: &[&str],
    clock: &Clock,
) -> anyhow::Result<Vec<f64>> {
    let committed = times(source, pair.source.0, pair.source.1, pair.key_type, keys, &Clock::Commit).await?;
    let visible = times(target, &pair.target.0, pair.target.1, pair.key_type, keys, clock).await?;
    let mut found = Vec::new();
    for key in keys {
        match (committed.get(*key), visible.get(*key)) {
            (Some(committed), Some(visible)) if visible >= committed => found.push((visible - committed) as f64 / 1000.0),
            (committed, visible) => {
                anyhow::bail!("{}: {key} was written at {committed:?} and visible at {visible:?}", pair.target.0)
            }
        }
    }
    Ok(found)
}

/// Microseconds of the epoch, by key.
async fn times(
    session: &Session,
    table: &str,
    column: &str,
    key_type: &str,
    keys: &[&str],
    clock: &Clock,
) -> anyhow::Result<HashMap<String, i64>> {
    let (with, time) = match clock {
        Clock::Commit => (String::new(), "pg_xact_commit_timestamp(xmin)".to_owned()),
        Clock::Wal(from) => {
            // What was applied need not be flushed yet, and only what is flushed can be read; this commit flushes.
            session
                .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect; SELECT pg_logical_emit_message(true, 'bench', '')")
                .await?;
            let records = format!(
                "WITH commits AS MATERIALIZED (
                     SELECT xid::text AS id, substring(description FROM '^[^;]+')::timestamptz AS at
                     FROM pg_get_wal_records_info('{from}', pg_current_wal_flush_lsn())
                     WHERE resource_manager = 'Transaction' AND record_type = 'COMMIT')"
            );
            (records, "(SELECT c.at FROM commits c WHERE c.id = t.xmin::text)".to_owned())
        }
    };
    let statement = format!(
        "{with} SELECT {column}::text, (extract(epoch FROM {time}) * 1000000)::bigint FROM {table} AS t
         WHERE {column} = ANY ($1::text[]::{key_type}[])"
    );
    let rows = session.query(&statement, &[&keys]).await?;
    Ok(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<i64>>(1)?))).collect())
}

/// The medians and the tails of several rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    pub(crate) p50: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    pub(crate) samples: usize,
}

impl Latencies {
    pub(crate) fn add(&mut self, round: &[f64]) {
        self.p50.push(quantile(round, 0.5));
        self.p99.push(quantile(round, 0.99));
        self.samples += round.len();
    }
}
