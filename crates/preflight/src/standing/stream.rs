//! Whether a slot is streamed from for another target.
//!
//! The writer's lock of a target says nothing about its copy's: both clusters grant one. So whoever streams from a slot is not ended, but
//! watched. A walsender whose client is gone ends by itself, at once or after `wal_sender_timeout`; one that goes on, while nobody writes
//! to this target, writes to another.

use std::time::Duration;

use lockstep_connect::Session;
use tokio::time::Instant;

use super::lock::writer_lock_is_held;

const INTERVAL: Duration = Duration::from_millis(100);

/// A former leader of this target whose lock was ended stops within this time.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// How long a walsender that shows no sign of life is watched. What is left over is gone soon after (`wal_sender_timeout` is a minute), and
/// refusing meanwhile costs nothing but another start.
const WATCHED_FOR: Duration = Duration::from_secs(45);

/// Who streams, and what moves while somebody lives at the other end. `reply_time` is there for those who may read all statistics.
const STREAM: &str = "SELECT s.active_pid, concat(s.confirmed_flush_lsn, ' ', r.reply_time)
    FROM pg_replication_slots AS s LEFT JOIN pg_stat_replication AS r ON r.pid = s.active_pid
    WHERE s.slot_name = $1 AND s.active_pid IS NOT NULL";

/// Makes something to confirm where nothing is written.
const NUDGE: &str = "SELECT pg_logical_emit_message(true, 'lockstep', '')";

struct Stream {
    pid: i32,
    position: String,
}

/// Watches whoever streams from `slot` until it has gone, or until it is clear that it writes elsewhere; then why. `target` is the session
/// of one who does not have the writer's lock; whoever else has it there may be the one who streams.
///
/// # Errors
/// A catalog cannot be read.
pub async fn streamed_elsewhere(
    source: &Session,
    slot: &str,
    target: Option<&Session>,
) -> Result<Option<String>, tokio_postgres::Error> {
    let Some(first) = stream(source, slot).await? else { return Ok(None) };
    if written_by_another(target).await? {
        return Ok(None);
    }
    if let Err(error) = source.batch_execute(NUDGE).await {
        tracing::debug!(error = %lockstep_connect::describe(&error), "nudge");
    }
    tracing::info!(
        slot,
        pid = first.pid,
        "somebody streams from the slot, and nobody writes to this target: watching whether it goes"
    );
    let begun = Instant::now();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(now) = stream(source, slot).await? else { return Ok(None) };
        if written_by_another(target).await? {
            return Ok(None);
        }
        // Who comes back is alive as well.
        let lives = now.pid != first.pid || now.position != first.position;
        if lives && begun.elapsed() >= STOPS_WITHIN || begun.elapsed() >= WATCHED_FOR {
            return Ok(Some(told(now.pid, begun.elapsed())));
        }
    }
}

/// What is said of one who streams and does not write here.
fn told(pid: i32, watched: Duration) -> String {
    format!(
        "somebody streams from the slot (pid {pid} of the source), and nobody has written here for {} s; \
         if that is left over: SELECT pg_terminate_backend({pid})",
        watched.as_secs()
    )
}

async fn stream(source: &Session, slot: &str) -> Result<Option<Stream>, tokio_postgres::Error> {
    let row = source.query_opt(STREAM, &[&slot]).await?;
    Ok(row.map(|row| Stream { pid: row.get(0), position: row.get(1) }))
}

/// Whether another session has the writer's lock of a target.
async fn written_by_another(target: Option<&Session>) -> Result<bool, tokio_postgres::Error> {
    match target {
        Some(target) => writer_lock_is_held(target).await,
        None => Ok(false),
    }
}
