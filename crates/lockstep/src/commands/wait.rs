//! `lockstep wait`.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_config::Config;
use lockstep_connect::{ErrorClass, Session, classify};
use lockstep_supervise::requests;
use lockstep_wal::Lsn;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::common;
use crate::Exit;

/// Pauses between two looks: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What a look found.
enum Look {
    Contained,
    NotYet,
    /// Nothing is set up, or is being set up.
    NothingThere,
    /// The target is on its way down or up.
    Gone,
}

/// Waits until every group contains a position, the source's current one unless given, and what has changed in the source's catalogs
/// has been compared. Each look is a statement of its own: nothing is held in between that an upgrade, or VACUUM, would have to wait for.
///
/// # Errors
/// Source or target cannot be reached, or nothing is set up.
pub async fn wait(config: &Config, lsn: Option<Lsn>, timeout: Duration, json: bool) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let lsn = match lsn {
        Some(lsn) => lsn,
        None => {
            let source = Session::open(&config.source, "lockstep wait").await.context("source")?;
            let text: String = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
            text.parse()?
        }
    };
    let mut target = Session::open(config.target_settings(), "lockstep wait").await.context("target")?;
    let (mut pause, mut shown) = (PAUSE_MIN, false);
    let contained = loop {
        let found = look(&target, lsn, &mut shown).await?;
        if matches!(found, Look::Contained) {
            break true;
        }
        if began.elapsed() >= timeout {
            match found {
                Look::NothingThere => {
                    anyhow::bail!("nothing is set up in {} yet: lockstep run", config.target_settings().summary())
                }
                Look::Contained | Look::NotYet | Look::Gone => break false,
            }
        }
        tokio::time::sleep(pause.min(timeout.saturating_sub(began.elapsed()))).await;
        pause = PAUSE_MAX.min(pause * 3 / 2);
        if target.is_closed()
            && let Ok(again) = Session::open(config.target_settings(), "lockstep wait").await
        {
            (target, shown) = (again, false);
        }
    };
    // Rows are contained; what changes results without a row is looked for by the projector that runs, and is compared by then.
    let mut settled = true;
    if contained && requests::is_running(&target).await? {
        let names: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
        let left = timeout.saturating_sub(began.elapsed());
        settled = match tokio::time::timeout(left, requests::settled(&target, &names, true)).await {
            Ok(settled) => settled.map(|()| true)?,
            Err(_) => false,
        };
    }
    if json {
        common::print_json(&serde_json::json!({
            "lsn": lsn.to_string(), "contained": contained && settled, "waited_ms": u64::try_from(began.elapsed().as_millis())?
        }))?;
    } else if !contained {
        let running = requests::is_running(&target).await.unwrap_or(true);
        let trouble = super::status::trouble(&target).await.unwrap_or_default();
        let hint = match trouble {
            Some(trouble) => trouble,
            None if running => "lockstep status shows where they are".to_owned(),
            None => "no projector runs: lockstep run".to_owned(),
        };
        eprintln!("timed out: not every group contains {lsn} ({hint})");
    } else if !settled {
        eprintln!("timed out: every group contains {lsn}, and something is being compared (lockstep status shows what)");
    }
    Ok(if contained && settled { Exit::Good } else { Exit::TimedOut })
}

async fn look(target: &Session, lsn: Lsn, shown: &mut bool) -> anyhow::Result<Look> {
    match glance(target, lsn, shown).await {
        Ok(true) => Ok(Look::Contained),
        Ok(false) => Ok(Look::NotYet),
        Err(error) if is_missing(&error) => Ok(Look::NothingThere),
        Err(error) if classify(&error) == ErrorClass::Transient => Ok(Look::Gone),
        Err(error) => Err(anyhow::anyhow!(lockstep_connect::describe(&error))),
    }
}

/// Whether schema, function or table is not there, or has gone while the statement ran: an upgrade may make a function anew. For the
/// latter PostgreSQL has an internal error alone, in English whatever `lc_messages` says (`elog`).
fn is_missing(error: &tokio_postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        Some("3F000" | "42883" | "42P01") => true,
        Some("XX000") => error.as_db_error().is_some_and(|error| error.message().starts_with("cache lookup failed for")),
        _ => false,
    }
}

async fn glance(target: &Session, lsn: Lsn, shown: &mut bool) -> Result<bool, tokio_postgres::Error> {
    let row = target.query_one("SELECT lockstep.contains($1::text::pg_lsn)", &[&lsn.to_string()]).await?;
    let contained: bool = row.get(0);
    if !contained && !*shown {
        // So the projector sees that somebody waits: an idle group then writes its position at once. It goes with the session.
        target.batch_execute("SELECT pg_advisory_lock_shared(lockstep.waiters_lock())").await?;
        *shown = true;
    }
    Ok(contained)
}
