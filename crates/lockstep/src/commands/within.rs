//! An end for commands that look: when the databases do not answer.

use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::{Session, Settings};

use crate::Exit;

/// How long to look for who stands in the way.
const ASKING_MAX: Duration = Duration::from_secs(2);

/// Sessions of ours that wait for a lock, and for whom.
const BLOCKED: &str = "SELECT DISTINCT format('pid %s (%s, user %s, %s, transaction open for %s s)', other.pid,
                              coalesce(nullif(other.application_name, ''), 'no application name'), other.usename, other.state,
                              round(extract(epoch FROM clock_timestamp() - other.xact_start)))
     FROM pg_stat_activity AS ours CROSS JOIN LATERAL unnest(pg_blocking_pids(ours.pid)) AS blocking (pid)
     JOIN pg_stat_activity AS other ON other.pid = blocking.pid
     WHERE ours.application_name LIKE 'lockstep%' AND ours.wait_event_type = 'Lock'";

/// Runs a command, and gives it up after `patience`, with the names of those who hold what it waits for.
///
/// # Errors
/// The command's.
pub async fn within(
    config: &Config,
    patience: Duration,
    command: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    // On the heap: commands are large.
    if let Ok(result) = tokio::time::timeout(patience, Box::pin(command)).await {
        return result;
    }
    let mut holders = Vec::new();
    for settings in [Some(&config.source), config.target.as_ref()].into_iter().flatten() {
        holders.extend(tokio::time::timeout(ASKING_MAX, holders_in(settings)).await.unwrap_or_default());
    }
    let holders = if holders.is_empty() { String::new() } else { format!(": it waits for {}", holders.join(", ")) };
    eprintln!("given up: no answer within {patience:?}{holders}");
    Ok(Exit::TimedOut)
}

/// None where it cannot be asked: that it does not answer is what is told already.
async fn holders_in(settings: &Settings) -> Vec<String> {
    let Ok(session) = Session::open(settings, "lockstep command").await else { return Vec::new() };
    let Ok(rows) = session.query(BLOCKED, &[]).await else { return Vec::new() };
    rows.iter().map(|row| row.get(0)).collect()
}
