//! The feed of changes: for each batch and projection the keys of the rows that it wrote, in a table and as a notification.

use std::collections::BTreeSet;

use lockstep_connect::{Text, TextRef};
use lockstep_plan::RowKey;
use lockstep_wal::Lsn;
use serde_json::{Map, Value};
use tokio_postgres::{Client, Row};

use crate::notices::Notice;
use crate::quarantine::Key;

/// More keys than this are not told one by one: whoever follows drops everything.
const KEYS_MAX: usize = 1000;

/// Columns of a merge's result before the keys.
const COUNTS: usize = 4;

/// What a batch wrote to one projection.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    rows: i64,
    keys: BTreeSet<Key>,
    /// Some rows cannot be named, or there are too many.
    unnamed: bool,
}

impl Fed {
    /// Notes the rows that a merge wrote. Its result has arrays with their keys if it was asked for them: `key` is what they are of.
    pub(crate) fn note(&mut self, rows: i64, key: Option<&RowKey>, row: &Row) -> Result<(), tokio_postgres::Error> {
        self.rows += rows;
        let (first, columns) = match key {
            Some(RowKey::Primary(columns)) => (COUNTS, columns.len()),
            // Before them is their hash.
            Some(RowKey::Located(columns)) => (COUNTS + 1, columns.len()),
            Some(RowKey::SingleRow | RowKey::Copies { .. }) | None => (0, 0),
        };
        if columns == 0 || self.unnamed {
            self.unnamed = true;
            return Ok(());
        }
        let arrays: Vec<Vec<Option<TextRef<'_>>>> =
            (first..first + columns).map(|column| row.try_get(column)).collect::<Result<_, _>>()?;
        for n in 0..arrays[0].len() {
            self.keys.insert(arrays.iter().map(|array| array[n].map(Text::from)).collect());
        }
        self.unnamed = self.keys.len() > KEYS_MAX;
        Ok(())
    }

    /// Notes rows that cannot be named.
    pub(crate) fn note_unnamed(&mut self, rows: i64) {
        self.rows += rows;
        self.unnamed = true;
    }

    fn keys(&self, columns: &[String]) -> Option<String> {
        if self.unnamed {
            return None;
        }
        let object = |key: &Key| {
            let values = key.iter().map(|value| value.as_ref().map_or(Value::Null, |text| Value::String(text.to_string())));
            Value::Object(columns.iter().cloned().zip(values).collect::<Map<_, _>>())
        };
        Some(Value::Array(self.keys.iter().map(object).collect()).to_string())
    }

    /// Records it in the batch's transaction, which then commits durably, unlike other batches (on this server: a standby that does not
    /// answer must hold up nobody). A crash could otherwise take back what listeners have been told after the commit, and if the row has
    /// meanwhile become again what it was before, nothing would tell them. Returns what to tell.
    pub(crate) async fn write(
        &self,
        target: &Client,
        projection: &str,
        columns: &[String],
        lsn: Option<Lsn>,
    ) -> Result<Option<Notice>, tokio_postgres::Error> {
        if self.rows == 0 {
            return Ok(None);
        }
        record(target, projection, lsn, self.rows, self.keys(columns)).await.map(Some)
    }
}

/// Records that all of a projection may have changed: another version has taken its place. Its group tells the listeners when it starts.
///
/// # Errors
/// The statement failed.
pub async fn record_that_all_changed(target: &Client, projection: &str, rows: i64) -> Result<(), tokio_postgres::Error> {
    record(target, projection, None, rows, None).await.map(drop)
}

async fn record(
    target: &Client,
    projection: &str,
    lsn: Option<Lsn>,
    rows: i64,
    keys: Option<String>,
) -> Result<Notice, tokio_postgres::Error> {
    let row = target
        .query_one(
            "WITH added AS (
                 INSERT INTO lockstep.change (projection, lsn, rows, keys) VALUES ($1, $2::text::pg_lsn, $3, $4::text::json)
                 RETURNING id, lsn, rows, keys
             )
             SELECT 'lockstep_' || $1, lockstep.change_notice(id, lsn, rows, keys), lockstep.change_notice(id, lsn, rows, NULL),
                    set_config('synchronous_commit', 'local', true)
             FROM added",
            &[&projection, &lsn.map(|lsn| lsn.to_string()), &rows, &keys],
        )
        .await?;
    Ok(Notice { channel: row.get(0), text: row.get(1), without_keys: row.get(2) })
}

/// Forgets changes that are older than `keep_seconds`, and notes for each projection up to where.
///
/// # Errors
/// The statement failed.
pub async fn forget_changes(target: &Client, keep_seconds: f64) -> Result<(), tokio_postgres::Error> {
    target
        .execute(
            "WITH gone AS (
                 DELETE FROM lockstep.change WHERE at < clock_timestamp() - $1::double precision * interval '1 second'
                 RETURNING projection, id
             )
             INSERT INTO lockstep.forgotten SELECT projection, max(id) FROM gone GROUP BY projection
             ON CONFLICT (projection) DO UPDATE SET id = greatest(forgotten.id, excluded.id)",
            &[&keep_seconds],
        )
        .await?;
    Ok(())
}
