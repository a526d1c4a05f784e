//! The projections' tables: made, kept, or dropped.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_config::{Config, is_cube};
use lockstep_connect::Session;
use lockstep_plan::RowKey;
use lockstep_preflight::{Planned, Preflight};
use lockstep_refresh::{Registered, drop_projection, grant, load_registered, register};

use super::fingerprint::fingerprint;
use super::followed::{mark_stale, missed};
use super::version::{Making, Source};

/// How long what is no longer wanted waits for its readers.
const UNWANTED_MAX: Duration = Duration::from_secs(10);

/// How the reason begins why a projection is not maintained that was taken out of the configuration.
pub const NOT_CONFIGURED: &str = "it is not configured";

pub(super) async fn register_all(
    config: &Config,
    preflight: &Preflight,
    making: &[Making],
    target: &mut Session,
) -> anyhow::Result<Vec<Registered>> {
    let known = load_registered(target).await?;
    for orphan in known.iter().filter(|known| !preflight.planned.iter().any(|planned| planned.plan.projection == known.name)) {
        let owner = orphan.part_of.as_ref().unwrap_or(&orphan.name);
        if config.projections.iter().any(|projection| &projection.name == owner) && preflight.failure_of(owner).is_some() {
            if let (None, Some((reason, hint))) = (&orphan.part_of, preflight.failure_of(owner)) {
                tracing::error!(projection = orphan.name, reason, "its query fails; the others go on");
                mark_broken(target, &orphan.name, &reason, hint.as_deref()).await?;
            }
            continue;
        }
        if making.iter().any(|made| &made.replaces == owner || made.replaces == orphan.name) {
            mark_stale(target, Some(&orphan.name), "its old definition can be maintained no more; a new version is being built")
                .await?;
            continue;
        }
        if orphan.part_of.is_some() || orphan.in_making || is_cube(&orphan.name) || config.prune {
            drop_unwanted(target, orphan).await?;
            continue;
        }
        tracing::warn!(projection = orphan.name, "no longer configured: its table stays as it is and is not maintained");
        let reason = format!("{NOT_CONFIGURED}; all rows are compared when it is again");
        mark_stale(target, Some(&orphan.name), &reason).await?;
    }
    let mut registered = Vec::with_capacity(preflight.planned.len());
    for planned in &preflight.planned {
        let fingerprint = fingerprint(planned, &preflight.planned);
        let existing = known.iter().find(|known| known.name == planned.plan.projection);
        let current = match existing {
            Some(existing) if existing.fingerprint == fingerprint && existing.schema == planned.schema => {
                if let Some(reason) = missed(target, preflight, planned).await? {
                    mark_stale(target, Some(&existing.name), &reason).await?;
                }
                target
                    .execute(
                        "UPDATE lockstep.projection SET group_name = $2 WHERE name = $1 AND group_name <> $2",
                        &[&existing.name, &planned.group],
                    )
                    .await?;
                existing.clone()
            }
            Some(changed) => {
                tracing::warn!(projection = changed.name, "its definition changed: dropped, and built anew");
                drop_projection(target, changed, false, None).await.with_context(|| format!("dropping {}", changed.name))?;
                create(planned, target, &fingerprint).await?
            }
            None => create(planned, target, &fingerprint).await?,
        };
        registered.push(current);
        note_version(config, planned, making, target).await?;
    }
    let public = registered.iter().filter(|registered| registered.part_of.is_none());
    let tables: Vec<String> = public.map(|registered| registered.name.clone()).collect();
    grant(target, &config.schema, &tables, &config.readers).await.context("granting to the readers")?;
    Ok(registered)
}

/// Drops what is no longer wanted; if readers do not let go of it, it stays until the next set-up, and is not maintained.
async fn drop_unwanted(target: &mut Session, orphan: &Registered) -> anyhow::Result<()> {
    match drop_projection(target, orphan, false, Some(UNWANTED_MAX)).await {
        Ok(()) => tracing::info!(projection = orphan.name, "dropped: it is no longer wanted"),
        Err(error) if error.code().is_some_and(|code| code.code() == "55P03") => {
            tracing::warn!(projection = orphan.name, "no longer wanted, but somebody reads it; it is dropped at the next start");
            mark_stale(target, Some(&orphan.name), "it is no longer wanted, and is dropped when nobody reads it").await?;
        }
        Err(error) => return Err(error).with_context(|| format!("dropping {}", orphan.name)),
    }
    Ok(())
}

async fn create(planned: &Planned, target: &mut Session, fingerprint: &str) -> anyhow::Result<Registered> {
    let failed = |error: tokio_postgres::Error| {
        anyhow::anyhow!("creating {}: {}", planned.plan.projection, lockstep_connect::describe(&error))
    };
    register(target, &planned.plan, &planned.schema, &planned.group, planned.part_of.as_deref(), fingerprint)
        .await
        .map_err(failed)
}

/// Notes how a projection was configured, and whose place it is to take.
async fn note_version(config: &Config, planned: &Planned, making: &[Making], target: &Session) -> anyhow::Result<()> {
    let name = &planned.plan.projection;
    let made = making.iter().find(|made| &made.name == name);
    let configured = config.projections.iter().find(|projection| &projection.name == name).filter(|_| made.is_none());
    let source = configured.map(|projection| serde_json::to_value(Source::of(projection))).transpose()?;
    let key = match &planned.plan.key {
        RowKey::Primary(columns) | RowKey::Located(columns) => columns.as_slice(),
        RowKey::SingleRow | RowKey::Copies { .. } => &[],
    };
    let replaces = made.filter(|made| !made.stays).map(|made| &made.replaces);
    let stays_as = made.filter(|made| made.stays).map(|made| &made.replaces);
    let becomes = made.map(|made| &made.becomes);
    // A hint without a reason is about a new version; without one it is of the past.
    let is_replaced = making.iter().any(|made| &made.replaces == name);
    target
        .execute(
            // A row that stays as it is is not written: batches of running groups write it, in snapshots that must not be overtaken.
            "UPDATE lockstep.projection AS p
             SET source = n.source, replaces = n.replaces, becomes = n.becomes, key_columns = n.key_columns, ready = n.ready, hint = n.hint,
                 stays_as = n.stays_as
             FROM (SELECT o.name, $2::jsonb AS source, $3::text AS replaces, $4::text AS becomes, $5::text[] AS key_columns, $7::text AS stays_as,
                          o.ready AND o.becomes IS NOT DISTINCT FROM $4 AS ready,
                          CASE WHEN $6 OR o.reason IS NOT NULL THEN o.hint END AS hint
                   FROM lockstep.projection AS o WHERE o.name = $1) AS n
             WHERE p.name = n.name
               AND (p.source, p.replaces, p.becomes, p.key_columns, p.ready, p.hint, p.stays_as)
                   IS DISTINCT FROM (n.source, n.replaces, n.becomes, n.key_columns, n.ready, n.hint, n.stays_as)",
            &[&name, &source, &replaces, &becomes, &key, &is_replaced, &stays_as],
        )
        .await?;
    Ok(())
}

/// Notes that a projection's query fails, so that it cannot even be planned. Readers keep what is there.
async fn mark_broken(target: &Session, name: &str, reason: &str, hint: Option<&str>) -> anyhow::Result<()> {
    target
        .execute(
            "UPDATE lockstep.projection SET state = 'faulted', reason = $2, hint = $3, changed_at = now() WHERE name = $1",
            &[&name, &reason, &hint],
        )
        .await?;
    Ok(())
}
