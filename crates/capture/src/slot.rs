//! The replication slot: its state.

use lockstep_wal::Lsn;
use tokio_postgres::Client;

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
