//! `lockstep wait`.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_connect::Session;
use lockstep_wal::Lsn;

use crate::Exit;
use crate::config::Config;

/// Waits until every group contains a position, the source's current one unless given.
///
/// # Errors
/// Source or target cannot be reached, or nothing is set up.
pub async fn wait(config: &Config, lsn: Option<Lsn>, timeout: Duration, json: bool) -> anyhow::Result<Exit> {
    let began = tokio::time::Instant::now();
    let lsn = match lsn {
        Some(lsn) => lsn,
        None => {
            let source = Session::open(&config.source, "lockstep wait").await.context("source")?;
            let text: String = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
            text.parse()?
        }
    };
    let target = Session::open(config.target_settings(), "lockstep wait").await.context("target")?;
    let installed: bool = target.query_one("SELECT to_regclass('lockstep.checkpoint') IS NOT NULL", &[]).await?.get(0);
    if !installed {
        anyhow::bail!("nothing is set up in {} yet: lockstep run", config.target_settings().summary());
    }
    let interval = format!("{} milliseconds", timeout.as_millis());
    let contained: bool = target
        .query_one("SELECT lockstep.wait_for($1::text::pg_lsn, $2::text::interval)", &[&lsn.to_string(), &interval])
        .await
        .map_err(|error| anyhow::anyhow!(lockstep_connect::describe(&error)))?
        .get(0);
    if json {
        super::print_json(&serde_json::json!({
            "lsn": lsn.to_string(), "contained": contained, "waited_ms": u64::try_from(began.elapsed().as_millis())?
        }))?;
    } else if !contained {
        eprintln!("timed out: not every group contains {lsn} (lockstep status shows where they are)");
    }
    Ok(if contained { Exit::Good } else { Exit::TimedOut })
}
