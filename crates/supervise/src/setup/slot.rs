//! The replication slot: made, given up for another, dropped.

use std::time::Duration;

use anyhow::bail;
use lockstep_capture::{blockers, loss, slot_state};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::quote;
use lockstep_preflight::Preflight;
use lockstep_preflight::standing::streamed_elsewhere;
use lockstep_refresh::empty;
use lockstep_wal::ReplicationConnection;

use crate::requests;

/// How often the transactions are named that a new slot waits for.
const BLOCKERS_EVERY: Duration = Duration::from_secs(2);

/// How long a predecessor's walsender, or a source that does not answer, is waited for.
const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// The slot that this target made before, on this cluster, under another name.
pub(super) async fn former_slot(config: &Config, preflight: &Preflight, target: &Session) -> anyhow::Result<Option<String>> {
    let row = target
        .query_opt(
            "SELECT slot FROM lockstep.installation WHERE slot <> $1 AND system_identifier = $2 AND NOT $3",
            // A copy leaves the original's alone.
            &[&config.slot, &preflight.system_identifier, &preflight.apart],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// A slot that nobody reads keeps WAL until the disk is full.
pub(super) async fn drop_former_slot(source: &Session, database: &str, slot: &str) {
    let found = slot_state(source, slot).await;
    let Ok(Some(_)) = found.map(|state| state.filter(|state| state.plugin == "pgoutput" && state.database == database)) else {
        return;
    };
    match drop_slot(source, slot).await {
        Ok(()) => tracing::info!(slot, "dropped the slot that was used before"),
        Err(error) => tracing::warn!(
            slot,
            error = format!("{error:#}"),
            "the slot that was used before cannot be dropped, and keeps WAL: SELECT pg_drop_replication_slot({})",
            quote::literal(slot)
        ),
    }
}

/// Makes the slot if it is missing, unusable, or left over from a start that did not get to record it.
pub(super) async fn ensure_slot(config: &Config, source: &Session, target: &Session, new_slot: bool) -> anyhow::Result<()> {
    let slot = &config.slot;
    let new_slot = new_slot || requests::asks_for_new_slot(target).await?;
    let recorded: Option<String> =
        target.query_one("SELECT slot_created_lsn::text FROM lockstep.installation", &[]).await?.get(0);
    let state = slot_state(source, slot).await?;
    let contained: Option<String> =
        target.query_one("SELECT min(recorded_lsn)::text FROM lockstep.checkpoint", &[]).await?.get(0);
    // Nothing is confirmed before it is recorded: until then the slot is where it was made.
    let contained: Option<lockstep_wal::Lsn> = contained.or_else(|| recorded.clone()).and_then(|text| text.parse().ok());
    if let (Some(state), Some(_), false) = (&state, &recorded, new_slot)
        && state.wal_status != "lost"
    {
        match (state.confirmed_lsn, contained) {
            (Some(confirmed), Some(contained)) if confirmed > contained => tracing::warn!(
                slot,
                "the slot is at {confirmed}, and the read models are at {contained}: it was made anew or moved by somebody else"
            ),
            (Some(_) | None, Some(_) | None) => return Ok(()),
        }
    }
    if recorded.is_some() {
        let (cause, remedy) = loss(source, slot, None).await?.map(|loss| (loss.cause, loss.remedy)).unzip();
        tracing::warn!(
            slot,
            cause,
            remedy,
            "the replication slot is given up: making a new one; everything is compared and repaired, readers are served meanwhile"
        );
    }
    target.execute("UPDATE lockstep.installation SET slot_created_lsn = NULL", &[]).await?;
    if state.is_some() {
        drop_slot(source, slot).await?;
    }
    tracing::info!(slot, "creating the replication slot; this waits for the transactions that run now");
    let mut connection = ReplicationConnection::open(&config.source).await?;
    let created = tokio::select! {
        created = connection.create_slot(slot) => created?,
        error = report_blockers(source, target) => return Err(error),
    };
    target.execute("UPDATE lockstep.installation SET trouble = NULL", &[]).await?;
    record_slot(target, &created.consistent_lsn.to_string()).await
}

/// The new slot's position, and in the same transaction what follows from it: projections that were live have missed changes and
/// must be refreshed in full, those in the making start again.
async fn record_slot(target: &Session, consistent_lsn: &str) -> anyhow::Result<()> {
    target.batch_execute("BEGIN").await?;
    let unfinished = target
        .query(
            "SELECT table_schema, name, state_tables FROM lockstep.projection WHERE built_at IS NULL AND state <> 'registered'",
            &[],
        )
        .await?;
    for row in &unfinished {
        let (schema, name, states): (&str, &str, Vec<&str>) = (row.get(0), row.get(1), row.get(2));
        let states = states.iter().map(|state| quote::qualified("lockstep", state));
        let tables: Vec<String> = std::iter::once(quote::qualified(schema, name)).chain(states).collect();
        empty(target, &tables).await?;
    }
    target
        .batch_execute(
            "UPDATE lockstep.projection SET state = 'registered', build_position = NULL, build_until = NULL, row_count = 0 WHERE built_at IS NULL;
             UPDATE lockstep.projection SET state = 'degraded', changed_at = now(),
                    reason = 'the replication slot is a new one; all rows are being compared and repaired'
             WHERE built_at IS NOT NULL;
             UPDATE lockstep.checkpoint SET lsn = NULL, recorded_lsn = NULL;
             UPDATE lockstep.request SET taken_at = coalesce(taken_at, clock_timestamp()), done_at = clock_timestamp()
             WHERE kind = 'new_slot' AND done_at IS NULL",
        )
        .await?;
    target.execute("UPDATE lockstep.installation SET slot_created_lsn = $1::text::pg_lsn", &[&consistent_lsn]).await?;
    target.batch_execute("COMMIT").await?;
    Ok(())
}

/// Names, every few seconds, the transactions that keep a slot from being created, also where `lockstep status` shows it. Never returns
/// without an error.
async fn report_blockers(source: &Session, target: &Session) -> anyhow::Error {
    loop {
        tokio::time::sleep(BLOCKERS_EVERY).await;
        let told = async {
            let names: Vec<String> = blockers(source, None).await?.iter().map(ToString::to_string).collect();
            if !names.is_empty() {
                let trouble = format!("the replication slot waits for transactions that run: {}", names.join("; "));
                tracing::warn!("{trouble}");
                target.execute("UPDATE lockstep.installation SET trouble = $1", &[&trouble]).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        if let Err(error) = told.await {
            return error.into();
        }
    }
}

/// Drops our slot, waiting for the walsender of a predecessor to go.
///
/// # Errors
/// Somebody streams from it for another target, or a statement failed.
pub async fn drop_slot(source: &Session, slot: &str) -> anyhow::Result<()> {
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
