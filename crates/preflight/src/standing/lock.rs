//! The lock of the instance that writes to a target.

use lockstep_connect::Session;

/// The session-level advisory lock of the instance that writes: "lockstep" with the top bit set.
pub const WRITER_LOCK: i64 = i64::MIN | 0x6C6F_636B_7374_6570;

/// Whether another session of the target's database has it.
///
/// # Errors
/// `pg_locks` cannot be read.
pub async fn writer_lock_is_held(target: &Session) -> Result<bool, tokio_postgres::Error> {
    // A lock by one number is shown as its two halves (`SET_LOCKTAG_ADVISORY` in PostgreSQL's lockfuncs.c).
    let held = "SELECT EXISTS (
                    SELECT FROM pg_locks
                    WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid() AND objsubid = 1
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND (classid::bigint << 32) | objid::bigint = $1)";
    Ok(target.query_one(held, &[&WRITER_LOCK]).await?.get(0))
}
