//! What `run` makes before it starts: metadata, publication, slot, tables. Each step can be repeated.

pub(crate) mod fingerprint;
pub(crate) mod followed;
pub(crate) mod slot;
mod tables;
pub(crate) mod types;
pub(crate) mod version;

use anyhow::{Context as _, bail};
use lockstep_capture::{RunningTransactions, Signature, slot_state};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::{Preflight, standing};
use lockstep_refresh::{ProjectionState, Registered, claim_group, load_registered};

use followed::{publish, record_signatures};
pub use slot::drop_slot;
use slot::{drop_former_slot, ensure_slot, former_slot};
pub use tables::NOT_CONFIGURED;
use tables::register_all;
use version::Making;

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
