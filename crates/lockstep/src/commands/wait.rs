//! `lockstep wait`.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_connect::Session;
use lockstep_wal::Lsn;

use crate::Exit;
use crate::config::Config;
use crate::requests;

/// How often to look whether a projector has set things up.
const SET_UP_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until every group contains a position, the source's current one unless given, and what has changed in the source's catalogs
/// has been compared.
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
    // A projector that was started a moment ago is about to set things up.
    while target
        .query_opt("SELECT FROM pg_proc WHERE proname = 'wait_for' AND pronamespace = to_regnamespace('lockstep')", &[])
        .await?
        .is_none()
    {
        if began.elapsed() >= timeout {
            anyhow::bail!("nothing is set up in {} yet: lockstep run", config.target_settings().summary());
        }
        tokio::time::sleep(SET_UP_INTERVAL).await;
    }
    let interval = format!("{} milliseconds", timeout.saturating_sub(began.elapsed()).as_millis());
    let contained: bool = target
        .query_one("SELECT lockstep.wait_for($1::text::pg_lsn, $2::text::interval)", &[&lsn.to_string(), &interval])
        .await
        .map_err(|error| anyhow::anyhow!(lockstep_connect::describe(&error)))?
        .get(0);
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
        super::print_json(&serde_json::json!({
            "lsn": lsn.to_string(), "contained": contained && settled, "waited_ms": u64::try_from(began.elapsed().as_millis())?
        }))?;
    } else if !contained {
        let running = requests::is_running(&target).await.unwrap_or(true);
        let trouble = super::trouble(&target).await.unwrap_or_default();
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
