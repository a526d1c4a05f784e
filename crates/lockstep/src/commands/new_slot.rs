//! `lockstep repair --new-slot`.

use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::standing;
use lockstep_supervise::requests::{self, Request};
use serde::Serialize;

use super::common;
use super::stall::Stall;
use super::verify::Own;
use crate::Exit;

/// How often the outcome is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// A projector that waits before it sets up again answers within this time; then none runs.
const ANSWER_MAX: Duration = Duration::from_secs(8);

#[derive(Serialize)]
struct View {
    slot: String,
    slot_created_lsn: String,
    compared: i64,
    /// Projections that are set aside, with the reason.
    faulted: Vec<(String, String)>,
}

/// Gives the slot up for a new one, and waits until every projection has been compared and repaired behind it.
///
/// # Errors
/// A server cannot be reached, nothing is set up, or the target is a copy of another installation's.
pub async fn new_slot(config: &Config, patience: Duration, json: bool) -> anyhow::Result<Exit> {
    let target = common::installed_target(config, None).await?;
    standing::insist(config, &target).await?;
    let request = requests::ask(&target, Request::NewSlot, None, &serde_json::json!({})).await?;
    let mut own = None;
    let outcome = wait(config, &target, request, patience, &mut own).await;
    if let Some(own) = own {
        own.stop().await?;
    }
    if let Some(reason) = outcome? {
        // Nobody is to take it up when nobody waits for it any more.
        let given_up = "UPDATE lockstep.request SET done_at = clock_timestamp(), error = $2 WHERE id = $1 AND done_at IS NULL";
        target.execute(given_up, &[&request, &reason]).await?;
        eprintln!("{reason}");
        return Ok(Exit::TimedOut);
    }
    let view = view(&target).await?;
    if json {
        common::print_json(&view)?;
    } else {
        println!(
            "slot {} is a new one from {} on; projections compared and repaired: {}",
            view.slot, view.slot_created_lsn, view.compared
        );
        view.faulted.iter().for_each(|(name, reason)| println!("{name} is set aside: {reason}"));
    }
    Ok(if view.faulted.is_empty() { Exit::Good } else { Exit::Failure })
}

/// Returns when it is done; with a reason when nothing moves. Where no projector runs one is started for it.
async fn wait(
    config: &Config,
    target: &Session,
    request: i64,
    patience: Duration,
    own: &mut Option<Own>,
) -> anyhow::Result<Option<String>> {
    let began = tokio::time::Instant::now();
    let mut stall = Stall::new(config, patience).await;
    let mut heard = false;
    loop {
        let row = target
            .query_one(
                "SELECT (SELECT done_at IS NOT NULL FROM lockstep.request WHERE id = $1),
                        NOT EXISTS (SELECT FROM lockstep.projection WHERE state IN ('degraded', 'registered', 'building') AND replaces IS NULL)",
                &[&request],
            )
            .await?;
        let (made, settled): (bool, bool) = (row.get(0), row.get(1));
        if made && settled {
            return Ok(None);
        }
        heard = heard || made || requests::is_running(target).await?;
        match own {
            None if !heard && began.elapsed() >= ANSWER_MAX => *own = Some(Own::start(config)),
            Some(own) if own.has_ended() => {
                anyhow::bail!("the projector that was started for it has ended; see its messages above")
            }
            Some(_) | None => {}
        }
        if let Some(reason) = stall.look(target).await? {
            return Ok(Some(reason));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn view(target: &Session) -> anyhow::Result<View> {
    let row = target
        .query_one(
            "SELECT i.slot, coalesce(i.slot_created_lsn::text, '-'),
                    (SELECT count(*) FROM lockstep.projection WHERE state = 'live' AND part_of IS NULL AND replaces IS NULL)
             FROM lockstep.installation AS i",
            &[],
        )
        .await?;
    let faulted = target
        .query(
            "SELECT name, coalesce(reason, '') FROM lockstep.projection WHERE state = 'faulted' AND part_of IS NULL ORDER BY 1",
            &[],
        )
        .await?;
    Ok(View {
        slot: row.get(0),
        slot_created_lsn: row.get(1),
        compared: row.get(2),
        faulted: faulted.iter().map(|row| (row.get(0), row.get(1))).collect(),
    })
}
