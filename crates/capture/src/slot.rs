//! The replication slot: its state, and the one subtlety of a new one.

use std::time::Duration;

use lockstep_wal::Lsn;
use tokio_postgres::Client;

use crate::CaptureError;

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

/// Waits until every transaction that is running now has ended.
///
/// Two moments need it. *A new slot*: a transaction whose commit record precedes the slot's consistent point is not decoded, and it
/// can be invisible to a snapshot for a while (it sits between writing its commit record and leaving the list of running
/// transactions; a synchronous standby can stretch that to seconds; meanwhile `pg_xact_status` calls it "in progress"). *A table
/// added to a publication*: what a running transaction did to it before is not decoded. Either way the first snapshot of the build
/// must see it.
///
/// The bound is an id of our own: every transaction that was there before has a smaller one, also those beyond a snapshot's xmax.
///
/// # Errors
/// A query failed.
pub async fn wait_for_running_transactions(client: &Client) -> Result<(), CaptureError> {
    let ours: String = client.query_one("SELECT pg_current_xact_id()::text", &[]).await?.get(0);
    let mut pause = Duration::from_millis(5);
    loop {
        let ended: bool =
            client.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8", &[&ours]).await?.get(0);
        if ended {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}
