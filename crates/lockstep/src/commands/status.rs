//! `lockstep status`: what the target and the slot tell, and what the running process adds through its listener.

use std::collections::HashMap;

use lockstep_capture::{slot_state, unidentified_in};
use lockstep_config::Config;
use lockstep_connect::{Session, read_only_by_default};
use lockstep_preflight::standby_names;
use lockstep_supervise::NOT_CONFIGURED;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::common;
use crate::Exit;

#[derive(Serialize)]
struct StatusView {
    groups: Vec<GroupView>,
    projections: Vec<ProjectionView>,
    slot: Option<SlotView>,
    trouble: Option<String>,
    /// Why the stream stands aside, if it does: the source would wait for it as a synchronous standby.
    stands_aside: Option<String>,
    /// Published tables on which the application's updates and deletes fail, and the statement that mends each.
    unidentified: Vec<String>,
}

#[derive(Serialize)]
struct GroupView {
    name: String,
    staleness_seconds: Option<f64>,
    lag_bytes: Option<i64>,
    snapshot: Option<String>,
    lsn: Option<String>,
    batches: i64,
    batch_ms: Option<f64>,
    fence_ms: Option<f64>,
    dirty_keys: Option<u64>,
}

#[derive(Serialize)]
struct ProjectionView {
    name: String,
    /// The projection that this one is a block of.
    part_of: Option<String>,
    group: String,
    kind: String,
    state: String,
    rows: i64,
    /// Of its table, with indexes; absent if there is none.
    bytes: Option<i64>,
    /// Of what is kept beside it: contributions, links, accumulators, with indexes.
    state_bytes: i64,
    dirty_keys: Option<u64>,
    quarantined: i64,
    sqlstate: Option<String>,
    reason: Option<String>,
    hint: Option<String>,
}

#[derive(Serialize)]
struct SlotView {
    name: String,
    active: bool,
    wal_status: String,
    confirmed_lsn: Option<String>,
    retained_bytes: i64,
    safe_bytes: Option<i64>,
}

/// Shows where everything is.
///
/// # Errors
/// The target cannot be reached or read.
pub async fn status(config: &Config, json: bool) -> anyhow::Result<Exit> {
    let target = Session::open(config.target_settings(), "lockstep status").await?;
    let installed: bool = target.query_one("SELECT to_regclass('lockstep.quarantine') IS NOT NULL", &[]).await?.get(0);
    if !installed {
        eprintln!("nothing is set up in {} yet: lockstep run", config.target_settings().summary());
        return Ok(Exit::Failure);
    }
    let live = live_gauges(config).await;
    let (source_lsn, slot, stands_aside, failing) = match Session::open(&config.source, "lockstep status").await {
        Ok(source) => {
            let lsn: String = source.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
            let chosen = standby_names::chosen(&source).await?;
            let aside = chosen.map(|chosen| format!("{}\n  {}", chosen.message, chosen.remedy()));
            (Some(lsn), slot_view(config, &source).await?, aside, unidentified_in(&source, &config.publication).await?)
        }
        Err(error) => {
            eprintln!("source: {error}");
            (None, None, None, Vec::new())
        }
    };
    let trouble = trouble(&target).await?;
    let view = StatusView {
        groups: groups(&target, source_lsn.as_deref(), &live).await?,
        projections: projections(&target, &live, trouble.is_some()).await?,
        slot,
        trouble,
        stands_aside,
        unidentified: failing
            .iter()
            .map(|table| format!("{} {}: updates and deletes of it fail\n  {};", table.table, table.reason, table.remedy))
            .collect(),
    };
    let running = lockstep_supervise::requests::is_running(&target).await?;
    if json {
        common::print_json(&view)?;
    } else {
        print(&view);
        if !running && view.trouble.is_none() {
            println!("\nNo projector runs: everything is as it was left (lockstep run).");
        }
        if live.is_empty() {
            println!("\nThe process's listener was not reached: dirty keys are unknown, and staleness is as last recorded.");
        }
    }
    let ill = view.trouble.is_some()
        || !view.unidentified.is_empty()
        || view.projections.iter().any(|projection| ["faulted", "degraded"].contains(&projection.state.as_str()));
    Ok(if ill { Exit::Failure } else { Exit::Good })
}

/// Why read models are not kept up to date, if they are not.
pub(super) async fn trouble(target: &Session) -> anyhow::Result<Option<String>> {
    // Then nobody can have noted it.
    if let Some(read_only) = read_only_by_default(target).await? {
        return Ok(Some(format!("{}. {}", read_only.message, read_only.remedy)));
    }
    let known = "SELECT to_regprocedure('lockstep.trouble(text, timestamptz)') IS NOT NULL";
    if !target.query_one(known, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let trouble = "SELECT lockstep.trouble(trouble, lease_until) FROM lockstep.installation";
    Ok(target.query_opt(trouble, &[]).await?.and_then(|row| row.get(0)))
}

async fn slot_view(config: &Config, source: &Session) -> anyhow::Result<Option<SlotView>> {
    Ok(slot_state(source, &config.slot).await?.map(|state| SlotView {
        name: config.slot.clone(),
        active: state.active_pid.is_some(),
        wal_status: state.wal_status,
        confirmed_lsn: state.confirmed_lsn.map(|lsn| lsn.to_string()),
        retained_bytes: state.retained_bytes,
        safe_bytes: state.safe_bytes,
    }))
}

async fn groups(target: &Session, source_lsn: Option<&str>, live: &Gauges) -> anyhow::Result<Vec<GroupView>> {
    let rows = target
        .query(
            "SELECT group_name, extract(epoch FROM clock_timestamp() -
                        CASE WHEN p.set_aside THEN least(current_as_of, p.changed_at) ELSE current_as_of END)::float8,
                    CASE WHEN p.set_aside THEN NULL ELSE pg_wal_lsn_diff($1::text::pg_lsn, lsn)::bigint END,
                    snapshot::text, lsn::text, batches, batch_ms, fence_ms
             FROM lockstep.checkpoint AS c
             LEFT JOIN LATERAL (SELECT bool_and(p.state = 'faulted') AS set_aside, max(p.changed_at) AS changed_at
                                FROM lockstep.projection AS p WHERE p.group_name = c.group_name) AS p ON true
             ORDER BY group_name",
            &[&source_lsn],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            GroupView {
                staleness_seconds: live.value("lockstep_staleness_seconds", &name).or(row.get(1)),
                // Of a group that is set aside only the process knows it.
                lag_bytes: row.get::<_, Option<i64>>(2).map(|lag| lag.max(0)).or_else(|| live.bytes("lockstep_lag_bytes", &name)),
                snapshot: row.get(3),
                lsn: row.get(4),
                batches: row.get(5),
                batch_ms: row.get(6),
                fence_ms: row.get(7),
                dirty_keys: live.dirty_keys(&name),
                name,
            }
        })
        .collect())
}

async fn projections(target: &Session, live: &Gauges, stalled: bool) -> anyhow::Result<Vec<ProjectionView>> {
    let rows = target
        .query(
            "SELECT name, group_name, kind, state, row_count, sqlstate, reason, hint, relations,
                    (SELECT count(*) FROM lockstep.quarantine AS q WHERE q.projection = p.name), part_of,
                    pg_total_relation_size(to_regclass(format('%I.%I', table_schema, name))),
                    (SELECT coalesce(sum(pg_total_relation_size(to_regclass(format('lockstep.%I', s.name)))), 0)::bigint
                     FROM unnest(state_tables) AS s (name))
             FROM lockstep.projection AS p ORDER BY coalesce(part_of, name), part_of IS NOT NULL, name",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            let group: String = row.get(1);
            ProjectionView {
                dirty_keys: live.dirty_keys_of(&group, &row.get::<_, Vec<String>>(8)),
                name,
                group,
                kind: row.get(2),
                state: match row.get::<_, Option<&str>>(6) {
                    // It was taken out, and its table stays as it is: nothing is wrong with that.
                    Some(reason) if reason.starts_with(NOT_CONFIGURED) => "unmaintained".to_owned(),
                    // Nothing is live while nothing flows.
                    _ if stalled && row.get::<_, &str>(3) == "live" => "stalled".to_owned(),
                    _ => row.get(3),
                },
                rows: row.get(4),
                sqlstate: row.get(5),
                reason: row.get(6),
                hint: row.get(7),
                quarantined: row.get(9),
                part_of: row.get(10),
                bytes: row.get(11),
                state_bytes: row.get(12),
            }
        })
        .collect())
}

fn print(view: &StatusView) {
    let number = |value: Option<f64>, unit: &str| value.map_or("-".to_owned(), |value| format!("{value:.1} {unit}"));
    let count = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let mut table =
        common::table(&["GROUP", "STALENESS", "LAG", "POSITION", "SNAPSHOT", "BATCHES", "LAST BATCH", "FENCE", "DIRTY KEYS"]);
    for group in &view.groups {
        table.add_row([
            group.name.clone(),
            number(group.staleness_seconds, "s"),
            group.lag_bytes.map_or("-".to_owned(), bytes),
            group.lsn.clone().unwrap_or_else(|| "not live yet".to_owned()),
            group.snapshot.clone().unwrap_or_else(|| "-".to_owned()),
            group.batches.to_string(),
            number(group.batch_ms, "ms"),
            number(group.fence_ms, "ms"),
            count(group.dirty_keys),
        ]);
    }
    println!("{table}\n");
    println!("{}", projection_table(&view.projections));
    for projection in &view.projections {
        match (&projection.reason, &projection.hint) {
            (Some(reason), Some(hint)) => println!("\n{}: {reason}\n  {hint}", projection.name),
            (Some(told), None) | (None, Some(told)) => println!("\n{}: {told}", projection.name),
            (None, None) => {}
        }
    }
    for projection in view.projections.iter().filter(|projection| projection.quarantined > 0) {
        let (name, keys) = (&projection.name, projection.quarantined);
        println!("\n{name}: {keys} of its keys fail and are set aside: lockstep quarantine list {name}");
    }
    if let Some(trouble) = &view.trouble {
        println!("\nread models are not kept up to date: {trouble}");
    }
    for told in view.stands_aside.iter().chain(&view.unidentified) {
        println!("\n{told}");
    }
    match &view.slot {
        Some(slot) => println!(
            "\nslot {}: {}, {} of WAL retained, {}",
            slot.name,
            if slot.active { "active" } else { "not active" },
            bytes(slot.retained_bytes),
            slot.safe_bytes
                .map_or("no limit set (max_slot_wal_keep_size)".to_owned(), |safe| format!("{} safe to write", bytes(safe)))
        ),
        None => println!("\nslot: none"),
    }
}

/// A line for each; blocks below what reads them.
fn projection_table(projections: &[ProjectionView]) -> impl std::fmt::Display {
    let mut table =
        common::table(&["PROJECTION", "GROUP", "KIND", "STATE", "ROWS", "SIZE", "STATE SIZE", "DIRTY KEYS", "QUARANTINED"]);
    for projection in projections {
        let block = projection.part_of.as_ref().map(|_| "  block ").unwrap_or_default();
        table.add_row([
            format!("{block}{}", projection.name),
            projection.group.clone(),
            projection.kind.clone(),
            projection.state.clone(),
            projection.rows.to_string(),
            projection.bytes.map_or("-".to_owned(), bytes),
            bytes(projection.state_bytes),
            projection.dirty_keys.map_or("-".to_owned(), |keys| keys.to_string()),
            projection.quarantined.to_string(),
        ]);
    }
    table
}

fn bytes(value: i64) -> String {
    indicatif::BinaryBytes(u64::try_from(value).unwrap_or(0)).to_string()
}

/// Gauges of a running process, by name and labels as rendered.
#[derive(Default)]
struct Gauges(HashMap<String, f64>);

impl Gauges {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn value(&self, metric: &str, group: &str) -> Option<f64> {
        self.0.get(&format!("{metric}{{group=\"{group}\"}}")).copied()
    }

    /// Bytes, which gauges hold as floating point.
    #[allow(clippy::cast_possible_truncation)]
    fn bytes(&self, metric: &str, group: &str) -> Option<i64> {
        self.value(metric, group).map(|value| value as i64)
    }

    /// Dirty keys that wait in a group, over all relations.
    fn dirty_keys(&self, group: &str) -> Option<u64> {
        let prefix = format!("lockstep_dirty_keys{{group=\"{group}\"");
        self.sum(self.0.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, value)| *value))
    }

    /// Dirty keys that wait in a group for the relations that a projection reads.
    fn dirty_keys_of(&self, group: &str, relations: &[String]) -> Option<u64> {
        let name = |relation: &String| format!("lockstep_dirty_keys{{group=\"{group}\",relation=\"{relation}\"}}");
        self.sum(relations.iter().filter_map(|relation| self.0.get(&name(relation)).copied()))
    }

    /// Counts, which gauges hold as floating point.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn sum(&self, values: impl Iterator<Item = f64>) -> Option<u64> {
        (!self.is_empty()).then(|| values.sum::<f64>() as u64)
    }
}

/// Asks the running process; nothing if it cannot be reached at once.
async fn live_gauges(config: &Config) -> Gauges {
    let Some(listen) = config.metrics else { return Gauges::default() };
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(listen.address).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let Ok(Ok(text)) = tokio::time::timeout(std::time::Duration::from_secs(2), asking).await else { return Gauges::default() };
    let gauges = text.lines().filter(|line| line.starts_with("lockstep_")).filter_map(|line| line.rsplit_once(' '));
    Gauges(gauges.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}
