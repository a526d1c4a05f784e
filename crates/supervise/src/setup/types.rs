//! Types of the source that the target is given: enums and domains, and the values that an enum gets later.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::quote;
use lockstep_preflight::{self as preflight, NeededType, Planned};

/// How often the source's enums are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Makes in the target the enums and domains that it lacks, and adds the values that its enums lack, where that is configured.
pub(crate) async fn make(config: &Config, planned: &[Planned], source: &Session, target: &Session) -> anyhow::Result<()> {
    if config.target.is_none() || !config.make_types {
        return Ok(());
    }
    let needed = preflight::needed_types(source, planned).await.context("the source's types")?;
    for found in preflight::missing_types(target, needed.clone()).await.context("the target's types")? {
        let (true, Some(statement)) = (found.makeable, &found.statement) else { continue };
        // IF NOT EXISTS would ask for the privilege to create schemas even where the schema is there.
        let schema = quote::identifier(&found.schema);
        if target.query_one("SELECT to_regnamespace($1) IS NULL", &[&schema]).await?.get(0) {
            target.batch_execute(&format!("CREATE SCHEMA {schema}")).await.with_context(|| format!("making schema {schema}"))?;
        }
        target.batch_execute(statement).await.with_context(|| format!("making the type {}.{}", found.schema, found.name))?;
        tracing::info!(type_name = format!("{}.{}", found.schema, found.name), "made in the target as it is in the source");
    }
    add_values(target, &needed).await
}

/// Adds the values that the source's enums have and the target's lack, at their places.
async fn add_values(target: &Session, needed: &[NeededType]) -> anyhow::Result<()> {
    for found in needed.iter().filter(|found| found.makeable && !found.labels.is_empty()) {
        let name = quote::qualified(&found.schema, &found.name);
        let row = target
            .query_one(
                "SELECT ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = to_regtype($1) ORDER BY enumsortorder)",
                &[&name],
            )
            .await?;
        let mut there: Vec<String> = row.get(0);
        if there.is_empty() {
            continue;
        }
        for (position, label) in found.labels.iter().enumerate() {
            if there.contains(label) {
                continue;
            }
            let next = found.labels[position..].iter().find(|next| there.contains(next));
            let place = next.map(|next| format!(" BEFORE {}", quote::literal(next))).unwrap_or_default();
            let statement = format!("ALTER TYPE {name} ADD VALUE IF NOT EXISTS {}{place}", quote::literal(label));
            target.batch_execute(&statement).await.with_context(|| format!("adding a value to {name}"))?;
            tracing::info!(type_name = name, "a value of the source's enum was added in the target");
            there.push(label.clone());
        }
    }
    Ok(())
}

/// Goes on adding values as the source's enums get them.
pub(crate) async fn follow(config: &Config, planned: &[Planned]) {
    if config.target.is_none() || !config.make_types {
        return std::future::pending().await;
    }
    let mut sessions: Option<(Session, Session)> = None;
    loop {
        tokio::time::sleep(EVERY).await;
        // Whatever ails the servers, the stream and the groups notice.
        if let Err(error) = look(config, planned, &mut sessions).await {
            tracing::debug!(error = format!("{error:#}"), "looking at the source's enums");
            sessions = None;
        }
    }
}

async fn look(config: &Config, planned: &[Planned], kept: &mut Option<(Session, Session)>) -> anyhow::Result<()> {
    let (source, target) = match kept {
        Some(sessions) => sessions,
        None => kept.insert((
            Session::open(&config.source, "lockstep monitor").await?,
            Session::open(config.target_settings(), "lockstep monitor").await?,
        )),
    };
    let needed = preflight::needed_types(source, planned).await?;
    add_values(target, &needed).await
}
