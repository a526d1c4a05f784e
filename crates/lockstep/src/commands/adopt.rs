//! `lockstep adopt`.

use anyhow::{Context as _, bail};
use lockstep_capture::slot_state;
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::standing::{self, Installation, Mark, Place, Standing, behind};
use lockstep_supervise::{lock_out_others, migrate};
use lockstep_wal::ReplicationConnection;

use super::common;
use crate::Exit;

/// Makes the target, a copy whose original is gone, the installation that the slot belongs to, and accepts a source that is behind what
/// was followed. The next start compares and repairs everything.
///
/// # Errors
/// A database cannot be reached, nothing is set up, somebody streams from the slot, or a projector runs.
pub async fn adopt(config: &Config, json: bool) -> anyhow::Result<Exit> {
    let source = Session::open(&config.source, "lockstep adopt").await.context("source")?;
    let target = common::installed_target(config, None).await?;
    let installation = Installation::load(&target).await?.context("nothing has been set up here: lockstep run")?;
    let mut accepted = Vec::new();
    if let Standing::Copy(reason) = standing::standing(config, &source, &target).await? {
        if let Some(pid) = slot_state(&source, &config.slot).await?.and_then(|state| state.active_pid) {
            bail!(
                "the original is not gone: pid {pid} of the source streams from slot {}; stop it first \
                 (if that is left over: SELECT pg_terminate_backend({pid}))",
                config.slot
            );
        }
        accepted.push(format!("this target is the installation ({reason})"));
    }
    let identity = ReplicationConnection::open(&config.source).await?.identify_system().await?;
    if let Some(reason) = behind(&installation, &identity.system_identifier, identity.timeline, identity.flushed_lsn) {
        accepted.push(format!("{} is the source ({reason})", config.source.summary()));
    }
    if accepted.is_empty() {
        if json {
            common::print_json(&serde_json::json!({ "accepted": accepted }))?;
        } else {
            println!("there is nothing to adopt: the slot is this installation's, and the source is not behind it");
        }
        return Ok(Exit::Good);
    }
    let writer = lock_out_others(config).await?;
    migrate(config.target_settings(), &writer).await.context("bringing lockstep's own schema up to date")?;
    take(config, &source, &target, &installation).await?;
    if json {
        common::print_json(&serde_json::json!({ "accepted": accepted }))?;
    } else {
        for what in &accepted {
            println!("accepted: {what}");
        }
        println!("the next start makes a new slot, and compares and repairs everything");
    }
    Ok(Exit::Good)
}

/// The next start finds no slot that it made, no position and no timeline, and makes everything good.
async fn take(config: &Config, source: &Session, target: &Session, installation: &Installation) -> anyhow::Result<()> {
    let here = Place::of(target).await?;
    let known = standing::of_slot(source, &config.slot).await?.map_or(0, |mark| mark.epoch);
    let epoch = installation.epoch.max(known) + 1;
    target
        .batch_execute(&format!(
            "BEGIN; SET LOCAL synchronous_commit = local; UPDATE lockstep.checkpoint SET recorded_lsn = NULL;
             UPDATE lockstep.installation SET slot_created_lsn = NULL, timeline = NULL, leader_epoch = {epoch}, trouble = NULL,
                    target_system = NULL, target_database = NULL, target_timeline = NULL; COMMIT"
        ))
        .await?;
    let id: String = target.query_one("SELECT id::text FROM lockstep.installation", &[]).await?.get(0);
    let mark = Mark { slot: config.slot.clone(), publication: config.publication.clone(), installation: id, place: here, epoch };
    standing::put(source, &mark).await.context("noting on the source whose slot it is")
}
