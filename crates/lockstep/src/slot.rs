//! Dropping a slot, and ending one that is half made.

use std::time::Duration;

use anyhow::bail;
use lockstep_connect::Session;

use crate::config::Config;
use crate::standing::streamed_elsewhere;

/// How long a predecessor's walsender, or a source that does not answer, is waited for.
const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// Drops our slot, waiting for the walsender of a predecessor to go.
///
/// # Errors
/// Somebody streams from it for another target, or a statement failed.
pub(crate) async fn drop_slot(source: &Session, slot: &str) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + TAKE_OVER_MAX;
    loop {
        match source.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") && tokio::time::Instant::now() < deadline => {
                end_half_made(source, slot).await?;
                if let Some(reason) = streamed_elsewhere(source, slot, None).await? {
                    bail!("slot {slot} is in use: {reason}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a walsender that still waits to make a slot: nobody streams from it yet, and it does not notice that nobody waits for it any more.
async fn end_half_made(source: &Session, slot: &str) -> Result<(), tokio_postgres::Error> {
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
               WHERE slot_name = $1 AND confirmed_flush_lsn IS NULL AND active_pid IS NOT NULL";
    source.execute(end, &[&slot]).await.map(drop)
}

/// Ends the making of a slot that has not come to an end.
pub(crate) async fn abandon_half_made_slot(config: &Config) {
    let ended = async {
        let source = Session::open(&config.source, "lockstep").await?;
        end_half_made(&source, &config.slot).await?;
        anyhow::Ok(())
    };
    match tokio::time::timeout(TAKE_OVER_MAX, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "a slot may be left half made"),
        Err(_) => tracing::warn!("the source does not answer: a slot may be left half made"),
    }
}
