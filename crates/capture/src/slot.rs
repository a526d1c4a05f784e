//! The replication slot: its state, and the one subtlety of a new one.

use std::time::Duration;

use lockstep_wal::Lsn;
use tokio_postgres::Client;

use crate::CaptureError;
use crate::snapshot::Snapshot;

/// A slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Output plugin; empty for a physical slot.
    pub plugin: String,
    /// Database; empty for a physical slot.
    pub database: String,
    /// The process that streams from it.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// WAL that the slot keeps the server from recycling, in bytes.
    pub retained_bytes: i64,
    /// WAL that may still be written before the slot is in danger; `None` without `max_slot_wal_keep_size`.
    pub safe_bytes: Option<i64>,
    /// Everything before it is confirmed.
    pub confirmed_lsn: Option<Lsn>,
}

/// The state of a slot; `None` if it does not exist.
///
/// # Errors
/// The query failed.
pub async fn slot_state(client: &Client, slot: &str) -> Result<Option<SlotState>, tokio_postgres::Error> {
    let row = client
        .query_opt(
            "SELECT coalesce(plugin::text, ''), coalesce(database::text, ''), active_pid, coalesce(wal_status, 'lost'),
                    coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,
                    safe_wal_size, confirmed_flush_lsn::text
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await?;
    Ok(row.map(|row| SlotState {
        plugin: row.get(0),
        database: row.get(1),
        active_pid: row.get(2),
        wal_status: row.get(3),
        retained_bytes: row.get(4),
        safe_bytes: row.get(5),
        confirmed_lsn: row.get::<_, Option<&str>>(6).and_then(|text| text.parse().ok()),
    }))
}

/// Waits until every transaction that committed before a new slot's consistent point is visible.
///
/// Such a transaction is not decoded, and it can be invisible to a snapshot for a while: it sits between writing its commit record
/// and leaving the list of running transactions (a synchronous standby can stretch that to seconds). Those that were in progress
/// when the slot was ready and are already marked committed are waited for; a transaction is marked right after its commit record
/// is flushed, so a short time of watching after the flush finds them all.
///
/// # Errors
/// A query failed, or a commit stayed invisible for longer than `timeout`.
pub async fn wait_for_invisible_commits(client: &Client, timeout: Duration) -> Result<(), CaptureError> {
    const WATCH: Duration = Duration::from_millis(50);
    let first = current_snapshot(client).await?;
    let begun = tokio::time::Instant::now();
    loop {
        let now = current_snapshot(client).await?;
        let still_running: Vec<String> =
            first.in_progress().filter(|xid| now.in_progress().any(|other| other == *xid)).map(|xid| xid.to_string()).collect();
        let committed: i64 = client
            .query_one(
                "SELECT count(*) FROM unnest($1::text[]) AS x WHERE pg_xact_status(x::xid8) = 'committed'",
                &[&still_running],
            )
            .await?
            .get(0);
        if committed == 0 && begun.elapsed() >= WATCH {
            return Ok(());
        }
        if begun.elapsed() > timeout {
            return Err(CaptureError::TimedOut(format!(
                "{committed} transactions committed before the slot was created and are still not visible; a synchronous standby may be missing"
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn current_snapshot(client: &Client) -> Result<Snapshot, CaptureError> {
    let text: String = client.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0);
    text.parse().map_err(|error: crate::snapshot::ParseSnapshotError| CaptureError::Ended(error.to_string()))
}
