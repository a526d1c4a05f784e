//! `lockstep quarantine`.

use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_supervise::requests::{self, Request};
use serde::Serialize;

use super::common;
use crate::Exit;

/// How often the outcome of a retry is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct KeyView {
    projection: String,
    relation: Option<String>,
    key: Vec<Option<String>>,
    sqlstate: Option<String>,
    message: String,
    first_at: String,
    last_at: String,
    attempts: i32,
    retry_at: String,
}

/// Lists the keys that are set aside.
///
/// # Errors
/// The target cannot be reached, nothing is set up, or there is no such projection.
pub async fn quarantine_list(config: &Config, name: Option<&str>, json: bool) -> anyhow::Result<Exit> {
    let target = common::installed_target(config, name).await?;
    show(&keys(&target, name).await?, json)?;
    Ok(Exit::Good)
}

/// Asks the running projector to try them again, and waits for the outcome.
///
/// # Errors
/// As [`quarantine_list`].
pub async fn quarantine_retry(config: &Config, name: Option<&str>, timeout: Duration, json: bool) -> anyhow::Result<Exit> {
    let target = common::installed_target(config, name).await?;
    let asked_at: String = target.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0);
    target
        .execute(
            "UPDATE lockstep.quarantine SET retry_at = clock_timestamp() WHERE $1::text IS NULL OR projection = $1",
            &[&name],
        )
        .await?;
    if !requests::is_running(&target).await? {
        eprintln!("no projector runs: they are tried again when it starts");
        return Ok(Exit::Failure);
    }
    requests::ask(&target, Request::RetryQuarantine, name, &serde_json::json!({})).await?;
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        let waiting: bool = target
            .query_one(
                "SELECT EXISTS (SELECT FROM lockstep.quarantine
                                WHERE ($1::text IS NULL OR projection = $1) AND last_at < $2::text::timestamptz)",
                &[&name, &asked_at],
            )
            .await?
            .get(0);
        if !waiting {
            break;
        }
        if tokio::time::Instant::now() >= deadline {
            eprintln!("timed out: some have not been tried yet (lockstep status shows the state of their projections)");
            return Ok(Exit::TimedOut);
        }
        tokio::time::sleep(INTERVAL).await;
    }
    let left = keys(&target, name).await?;
    show(&left, json)?;
    Ok(if left.is_empty() { Exit::Good } else { Exit::Failure })
}

async fn keys(target: &Session, name: Option<&str>) -> Result<Vec<KeyView>, tokio_postgres::Error> {
    let rows = target
        .query(
            "SELECT projection, relation, key, sqlstate, message, first_at::timestamptz(0)::text, last_at::timestamptz(0)::text, attempts,
                    retry_at::timestamptz(0)::text
             FROM lockstep.quarantine WHERE $1::text IS NULL OR projection = $1 ORDER BY projection, part, key",
            &[&name],
        )
        .await?;
    let view = |row: &tokio_postgres::Row| KeyView {
        projection: row.get(0),
        relation: row.get(1),
        key: row.get(2),
        sqlstate: row.get(3),
        message: row.get(4),
        first_at: row.get(5),
        last_at: row.get(6),
        attempts: row.get(7),
        retry_at: row.get(8),
    };
    Ok(rows.iter().map(view).collect())
}

fn show(keys: &[KeyView], json: bool) -> anyhow::Result<()> {
    if json {
        return common::print_json(&keys);
    }
    if keys.is_empty() {
        println!("No key is in quarantine.");
        return Ok(());
    }
    let mut table = common::table(&["PROJECTION", "KEY", "OF", "SQLSTATE", "FIRST", "LAST", "ATTEMPTS", "NEXT", "MESSAGE"]);
    for key in keys {
        let columns: Vec<&str> = key.key.iter().map(|column| column.as_deref().unwrap_or("NULL")).collect();
        table.add_row([
            key.projection.clone(),
            columns.join(", "),
            key.relation.clone().unwrap_or_else(|| "its group".to_owned()),
            key.sqlstate.clone().unwrap_or_else(|| "-".to_owned()),
            key.first_at.clone(),
            key.last_at.clone(),
            key.attempts.to_string(),
            key.retry_at.clone(),
            key.message.clone(),
        ]);
    }
    println!("{table}");
    Ok(())
}
