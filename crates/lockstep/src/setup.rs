//! What `run` makes before it starts: metadata, publication, slot, tables. Each step can be repeated.

use std::time::Duration;

use anyhow::{Context as _, bail};
use lockstep_capture::{RunningTransactions, Signature, Tracked, blockers, loss, slot_state};
use lockstep_connect::Session;
use lockstep_plan::RowKey;
use lockstep_plan::quote;
use lockstep_refresh::{ProjectionState, Registered, claim_group, drop_projection, empty, grant, load_registered, register};
use lockstep_wal::ReplicationConnection;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::followed::{mark_stale, missed, publish, record_signatures, relation_signatures};
use crate::preflight::{Planned, Preflight};
use crate::slot::drop_slot;
use crate::types;
use crate::versions::{Making, Source};
use crate::{requests, standing};

/// How often the transactions are named that a new slot waits for.
const BLOCKERS_EVERY: Duration = Duration::from_secs(2);

/// How long what is no longer wanted waits for its readers.
const UNWANTED_MAX: Duration = Duration::from_secs(10);

/// Part of every fingerprint: raise it when the same plan would make different tables.
const TABLE_FORMAT: &str = "2";

/// How the reason begins why a projection is not maintained that was taken out of the configuration.
pub(crate) const NOT_CONFIGURED: &str = "it is not configured";

/// What was set up.
pub(crate) struct Installed {
    /// Our turn as writer.
    pub(crate) leader_epoch: i64,
    /// Where the slot is.
    pub(crate) slot_lsn: Option<lockstep_wal::Lsn>,
    pub(crate) tables: Tables,
}

/// The projections' tables, and what they read.
pub(crate) struct Tables {
    /// Each planned projection as registered.
    pub(crate) registered: Vec<Registered>,
    /// What the tracked relations are now that they are published.
    pub(crate) signatures: Vec<Signature>,
    /// What ran when everything was published: a projection that is not live may have to wait for it. `None` if all are live.
    pub(crate) running: Option<RunningTransactions>,
}

/// Sets everything up. `new_slot` makes a new slot even if ours exists: it cannot be used any more.
pub(crate) async fn install(
    config: &Config,
    preflight: &Preflight,
    making: &[Making],
    target: &mut Session,
    new_slot: bool,
) -> anyhow::Result<Installed> {
    let former_slot = former_slot(config, preflight, target).await?;
    let leader_epoch = claim(config, preflight, target).await?;
    let source = Session::open(&config.source, "lockstep").await.context("source")?;
    types::make(config, &preflight.planned, &source, target).await?;
    let registered = register_all(config, preflight, making, target).await?;
    standing::claim(config, &source, target, preflight.apart, leader_epoch).await.context("noting whose the slot is")?;
    publish(config, preflight, &source, target).await.context("publication")?;
    let (signatures, _) = record_signatures(config, preflight, &source, target).await.context("the source's tables")?;
    ensure_slot(config, &source, target, new_slot).await.context("replication slot")?;
    if let Some(former) = former_slot {
        drop_former_slot(&source, config.source.database(), &former).await;
    }
    let tables = tables(registered, signatures, preflight, &source, target).await?;
    let slot_lsn = slot_state(&source, &config.slot).await?.and_then(|state| state.confirmed_lsn);
    Ok(Installed { leader_epoch, slot_lsn, tables })
}

/// Sets up what is planned while this instance leads and the stream runs: no slot is made, and the groups' turns stay. Returns also the
/// projections whose source tables changed meanwhile.
pub(crate) async fn renew(
    config: &Config,
    preflight: &Preflight,
    making: &[Making],
    target: &mut Session,
    leader_epoch: i64,
) -> anyhow::Result<(Tables, Vec<String>)> {
    claim_groups(preflight, target, leader_epoch).await?;
    target.execute("UPDATE lockstep.installation SET started_at = now(), trouble = NULL", &[]).await?;
    let source = Session::open(&config.source, "lockstep").await.context("source")?;
    types::make(config, &preflight.planned, &source, target).await?;
    let registered = register_all(config, preflight, making, target).await?;
    publish(config, preflight, &source, target).await.context("publication")?;
    let (signatures, changed) = record_signatures(config, preflight, &source, target).await.context("the source's tables")?;
    Ok((tables(registered, signatures, preflight, &source, target).await?, changed))
}

/// Notes what is registered now, states included, and what runs at this moment.
async fn tables(
    registered: Vec<Registered>,
    signatures: Vec<Signature>,
    preflight: &Preflight,
    source: &Session,
    target: &Session,
) -> anyhow::Result<Tables> {
    // The slot may just have been made anew, and the states with it.
    let now = load_registered(target).await?;
    let configured = |name: &str| preflight.planned.iter().any(|planned| planned.plan.projection == name);
    let all_live = now.iter().filter(|found| configured(&found.name)).all(|found| found.state == ProjectionState::Live);
    let running = if all_live { None } else { Some(RunningTransactions::of_now(source).await?) };
    let registered = registered
        .into_iter()
        .map(|earlier| now.iter().find(|found| found.name == earlier.name).cloned().unwrap_or(earlier))
        .collect();
    Ok(Tables { registered, signatures, running })
}

/// The slot that this target made before, on this cluster, under another name.
async fn former_slot(config: &Config, preflight: &Preflight, target: &Session) -> anyhow::Result<Option<String>> {
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
async fn drop_former_slot(source: &Session, database: &str, slot: &str) {
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

async fn claim(config: &Config, preflight: &Preflight, target: &Session) -> anyhow::Result<i64> {
    let found = target.query_opt("SELECT source_database, system_identifier, timeline FROM lockstep.installation", &[]).await?;
    if let Some(row) = &found {
        let database: &str = row.get(0);
        if database != config.source.database() {
            bail!(
                "this target follows another source (database {database}); \
                 run lockstep teardown with the old configuration first, or use another target database"
            );
        }
        if let Some(how) = restored(preflight, row.get(1), row.get(2), target).await? {
            tracing::warn!(
                "the source is not what it was: {how}; everything is compared and repaired, readers are served meanwhile"
            );
            target.execute("UPDATE lockstep.installation SET slot_created_lsn = NULL", &[]).await?;
        }
    }
    let row = target
        .query_one(
            "INSERT INTO lockstep.installation (system_identifier, source_database, slot, leader_epoch, timeline) VALUES ($1, $2, $3, 1, $4)
             ON CONFLICT (single_row) DO UPDATE
             SET leader_epoch = installation.leader_epoch + 1, started_at = now(), trouble = NULL,
                 slot_created_lsn = CASE WHEN installation.slot = excluded.slot THEN installation.slot_created_lsn END,
                 slot = excluded.slot, system_identifier = excluded.system_identifier, timeline = excluded.timeline
             RETURNING leader_epoch",
            &[&preflight.system_identifier, &config.source.database(), &config.slot, &i64::from(preflight.timeline)],
        )
        .await?;
    let leader_epoch = row.get(0);
    claim_groups(preflight, target, leader_epoch).await?;
    Ok(leader_epoch)
}

/// Takes the planned groups over; others are gone.
async fn claim_groups(preflight: &Preflight, target: &Session, leader_epoch: i64) -> anyhow::Result<()> {
    let mut groups: Vec<&str> = preflight.planned.iter().map(|planned| planned.group.as_str()).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in &groups {
        claim_group(target, group, leader_epoch).await?;
    }
    target.execute("DELETE FROM lockstep.checkpoint WHERE group_name <> ALL ($1)", &[&groups]).await?;
    Ok(())
}

/// How the source differs from the one that the read models were made from, though its database has the same name.
async fn restored(
    preflight: &Preflight,
    system_identifier: &str,
    timeline: Option<i64>,
    target: &Session,
) -> anyhow::Result<Option<String>> {
    if system_identifier != preflight.system_identifier {
        return Ok(Some(format!("its cluster was {system_identifier} and is {}", preflight.system_identifier)));
    }
    if let Some(timeline) = timeline.filter(|timeline| *timeline != i64::from(preflight.timeline)) {
        return Ok(Some(format!("its timeline was {timeline} and is {}: a failover, or a restore", preflight.timeline)));
    }
    let furthest: Option<String> = target.query_one("SELECT max(recorded_lsn)::text FROM lockstep.checkpoint", &[]).await?.get(0);
    let furthest: Option<lockstep_wal::Lsn> = furthest.and_then(|text| text.parse().ok());
    Ok(furthest
        .filter(|furthest| *furthest > preflight.flushed_lsn)
        .map(|furthest| format!("its position {} is before {furthest}, which it sent us: a restore", preflight.flushed_lsn)))
}

async fn register_all(
    config: &Config,
    preflight: &Preflight,
    making: &[Making],
    target: &mut Session,
) -> anyhow::Result<Vec<Registered>> {
    let known = load_registered(target).await?;
    for orphan in known.iter().filter(|known| !preflight.planned.iter().any(|planned| planned.plan.projection == known.name)) {
        let owner = orphan.part_of.as_ref().unwrap_or(&orphan.name);
        if config.projections.iter().any(|projection| &projection.name == owner) && preflight.failure_of(owner).is_some() {
            if let (None, Some((reason, hint))) = (&orphan.part_of, preflight.failure_of(owner)) {
                tracing::error!(projection = orphan.name, reason, "its query fails; the others go on");
                mark_broken(target, &orphan.name, &reason, hint.as_deref()).await?;
            }
            continue;
        }
        if making.iter().any(|made| &made.replaces == owner || made.replaces == orphan.name) {
            mark_stale(target, Some(&orphan.name), "its old definition can be maintained no more; a new version is being built")
                .await?;
            continue;
        }
        if orphan.part_of.is_some() || orphan.in_making || config.prune {
            drop_unwanted(target, orphan).await?;
            continue;
        }
        tracing::warn!(projection = orphan.name, "no longer configured: its table stays as it is and is not maintained");
        let reason = format!("{NOT_CONFIGURED}; all rows are compared when it is again");
        mark_stale(target, Some(&orphan.name), &reason).await?;
    }
    let mut registered = Vec::with_capacity(preflight.planned.len());
    for planned in &preflight.planned {
        let fingerprint = fingerprint(planned, &preflight.planned);
        let existing = known.iter().find(|known| known.name == planned.plan.projection);
        let current = match existing {
            Some(existing) if existing.fingerprint == fingerprint && existing.schema == planned.schema => {
                if let Some(reason) = missed(target, preflight, planned).await? {
                    mark_stale(target, Some(&existing.name), &reason).await?;
                }
                target
                    .execute(
                        "UPDATE lockstep.projection SET group_name = $2 WHERE name = $1 AND group_name <> $2",
                        &[&existing.name, &planned.group],
                    )
                    .await?;
                existing.clone()
            }
            Some(changed) => {
                tracing::warn!(projection = changed.name, "its definition changed: dropped, and built anew");
                drop_projection(target, changed, false, None).await.with_context(|| format!("dropping {}", changed.name))?;
                create(planned, target, &fingerprint).await?
            }
            None => create(planned, target, &fingerprint).await?,
        };
        registered.push(current);
        note_version(config, planned, making, target).await?;
    }
    let public = registered.iter().filter(|registered| registered.part_of.is_none());
    let tables: Vec<String> = public.map(|registered| registered.name.clone()).collect();
    grant(target, &config.schema, &tables, &config.readers).await.context("granting to the readers")?;
    Ok(registered)
}

/// Drops what is no longer wanted; if readers do not let go of it, it stays until the next set-up, and is not maintained.
async fn drop_unwanted(target: &mut Session, orphan: &Registered) -> anyhow::Result<()> {
    match drop_projection(target, orphan, false, Some(UNWANTED_MAX)).await {
        Ok(()) => tracing::info!(projection = orphan.name, "dropped: it is no longer wanted"),
        Err(error) if error.code().is_some_and(|code| code.code() == "55P03") => {
            tracing::warn!(projection = orphan.name, "no longer wanted, but somebody reads it; it is dropped at the next start");
            mark_stale(target, Some(&orphan.name), "it is no longer wanted, and is dropped when nobody reads it").await?;
        }
        Err(error) => return Err(error).with_context(|| format!("dropping {}", orphan.name)),
    }
    Ok(())
}

async fn create(planned: &Planned, target: &mut Session, fingerprint: &str) -> anyhow::Result<Registered> {
    let failed = |error: tokio_postgres::Error| {
        anyhow::anyhow!("creating {}: {}", planned.plan.projection, lockstep_connect::describe(&error))
    };
    register(target, &planned.plan, &planned.schema, &planned.group, planned.part_of.as_deref(), fingerprint)
        .await
        .map_err(failed)
}

/// Notes how a projection was configured, and whose place it is to take.
async fn note_version(config: &Config, planned: &Planned, making: &[Making], target: &Session) -> anyhow::Result<()> {
    let name = &planned.plan.projection;
    let made = making.iter().find(|made| &made.name == name);
    let configured = config.projections.iter().find(|projection| &projection.name == name).filter(|_| made.is_none());
    let source = configured.map(|projection| serde_json::to_value(Source::of(projection))).transpose()?;
    let key = match &planned.plan.key {
        RowKey::Primary(columns) | RowKey::Located(columns) => columns.as_slice(),
        RowKey::SingleRow | RowKey::Copies { .. } => &[],
    };
    let (replaces, becomes) = (made.map(|made| &made.replaces), made.map(|made| &made.becomes));
    // A hint without a reason is about a new version; without one it is of the past.
    let is_replaced = making.iter().any(|made| &made.replaces == name);
    target
        .execute(
            // A row that stays as it is is not written: batches of running groups write it, in snapshots that must not be overtaken.
            "UPDATE lockstep.projection AS p
             SET source = n.source, replaces = n.replaces, becomes = n.becomes, key_columns = n.key_columns, ready = n.ready, hint = n.hint
             FROM (SELECT o.name, $2::jsonb AS source, $3::text AS replaces, $4::text AS becomes, $5::text[] AS key_columns,
                          o.ready AND o.becomes IS NOT DISTINCT FROM $4 AS ready,
                          CASE WHEN $6 OR o.reason IS NOT NULL THEN o.hint END AS hint
                   FROM lockstep.projection AS o WHERE o.name = $1) AS n
             WHERE p.name = n.name
               AND (p.source, p.replaces, p.becomes, p.key_columns, p.ready, p.hint)
                   IS DISTINCT FROM (n.source, n.replaces, n.becomes, n.key_columns, n.ready, n.hint)",
            &[&name, &source, &replaces, &becomes, &key, &is_replaced],
        )
        .await?;
    Ok(())
}

/// Notes that a projection's query fails, so that it cannot even be planned. Readers keep what is there.
async fn mark_broken(target: &Session, name: &str, reason: &str, hint: Option<&str>) -> anyhow::Result<()> {
    target
        .execute(
            "UPDATE lockstep.projection SET state = 'faulted', reason = $2, hint = $3, changed_at = now() WHERE name = $1",
            &[&name, &reason, &hint],
        )
        .await?;
    Ok(())
}

/// Everything that, when it changes, makes the tables' contents or form wrong.
pub(crate) fn fingerprint(planned: &Planned, all: &[Planned]) -> String {
    let plan = &planned.plan;
    let read = all.iter().filter(|other| planned.reads.contains(&other.plan.projection));
    let read: Vec<String> = read.map(|other| fingerprint(other, all)).collect();
    let text = format!(
        "{TABLE_FORMAT}\n{}\n{}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{read:?}",
        plan.query,
        planned.time_zone,
        plan.columns,
        plan.key,
        plan.declared_key,
        plan.state_tables(),
        planned.indexes
    );
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that, when it changes, makes a view of the same query another one: it is bound to columns by number.
pub(crate) fn view_fingerprint(planned: &Planned, all: &[Planned], tracked: &[Tracked], signatures: &[Signature]) -> String {
    let tables = relation_signatures(planned, tracked, signatures);
    let text = format!("{} {tables:?}", fingerprint(planned, all));
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the slot if it is missing, unusable, or left over from a start that did not get to record it.
async fn ensure_slot(config: &Config, source: &Session, target: &Session, new_slot: bool) -> anyhow::Result<()> {
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
            "UPDATE lockstep.projection SET state = 'registered', build_position = NULL, row_count = 0 WHERE built_at IS NULL;
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
