//! `lockstep rebuild`.

use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::standing;
use lockstep_supervise::requests::{self, Request};

use super::common;
use super::stall::Stall;
use crate::Exit;

/// How often the swap is looked for.
const INTERVAL: Duration = Duration::from_millis(200);

/// Asks for a new version of a projection and waits until it has taken the old one's place.
///
/// # Errors
/// The target cannot be reached, nothing is set up, or it has no table for the projection yet.
pub async fn rebuild(config: &Config, name: &str, timeout: Duration, patience: Duration, json: bool) -> anyhow::Result<Exit> {
    if let Some(exit) = common::unknown_projection(config, std::iter::once(name)) {
        return Ok(exit);
    }
    let target = common::installed_target(config, Some(name)).await?;
    standing::insist(config, &target).await?;
    let built_at =
        "SELECT coalesce(built_at::text, '') FROM lockstep.projection WHERE name = $1 AND part_of IS NULL AND replaces IS NULL";
    let before: String = match target.query_opt(built_at, &[&name]).await? {
        Some(row) => row.get(0),
        None => anyhow::bail!("{name} is a hidden part of a projection; name the projection"),
    };
    target.execute("UPDATE lockstep.projection SET rebuild_wanted = true WHERE name = $1", &[&name]).await?;
    if !requests::is_running(&target).await? {
        eprintln!("no projector runs: {name} is rebuilt when it starts");
        return Ok(Exit::Failure);
    }
    requests::ask(&target, Request::Rebuild, Some(name), &serde_json::json!({})).await?;
    let began = tokio::time::Instant::now();
    let mut stall = Stall::new(config, patience).await;
    loop {
        let row = target.query_opt(built_at, &[&name]).await?;
        if row.is_some_and(|row| row.get::<_, String>(0) != before && !row.get::<_, String>(0).is_empty()) {
            break;
        }
        if let Some(reason) = cannot_be_built(&target, name).await? {
            eprintln!("the new version of {name} cannot be built: {reason}");
            return Ok(Exit::Failure);
        }
        if let Some(reason) = stall.look(&target).await? {
            eprintln!("{reason}");
            return Ok(Exit::TimedOut);
        }
        if began.elapsed() >= timeout {
            eprintln!("timed out: lockstep status shows how far {name}__2 is");
            return Ok(Exit::TimedOut);
        }
        tokio::time::sleep(INTERVAL).await;
    }
    if json {
        common::print_json(&serde_json::json!({ "projection": name, "seconds": began.elapsed().as_secs_f64() }))?;
    } else {
        println!("{name} was rebuilt in {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(Exit::Good)
}

/// Why the new version, or a hidden part of it, is set aside; the projector tries it again now and then.
async fn cannot_be_built(target: &Session, name: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let row = target
        .query_opt(
            "SELECT concat(f.name, ': ', f.reason, '; ' || f.hint) FROM lockstep.projection AS v
             JOIN lockstep.projection AS f ON f.name = v.name OR f.part_of = v.name
             WHERE v.replaces = $1 AND f.state = 'faulted' LIMIT 1",
            &[&name],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}
