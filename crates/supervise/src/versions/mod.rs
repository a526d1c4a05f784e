//! Changing a definition: the new version is built beside the old one, which is maintained meanwhile, verified, and swapped in.
//!
//! ```text
//!   start: definition changed ──► old version as it was configured + new version as X__2, both planned and maintained
//!   X__2 live ──► verified ──► ready ──► set up again: swapped in one transaction, the old one dropped or kept for a while
//! ```
//!
//! Projections that read a changed one change with it: their new versions read its new version, and all are swapped in one transaction.

mod hidden;
mod names;
mod rename;
mod swap;
mod unit;

use std::time::Duration;

use anyhow::Context as _;
use lockstep_config::{Config, ProjectionConfig};
use lockstep_connect::Session;
use lockstep_plan::chains::with_suffixed_projections;
use lockstep_plan::indexes_for;
use lockstep_preflight::{self as preflight, Depth, Preflight};
use lockstep_refresh::{GroupStatus, OnError, ProjectionState};
use tokio::sync::watch;

use crate::setup::fingerprint::fingerprint;
use crate::setup::version::{Making, Source};
use crate::verification::{Verifier, Wish};
use names::{INDEX_PREFIX, SUFFIX, renamed};
pub(crate) use swap::{concerns, drop_retired, places_taken, ready, swap_in_place, swap_ready};

/// How often to look whether a new version is live.
const INTERVAL: Duration = Duration::from_millis(200);

/// Pause before another look whether keys that failed are good.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Pause before another try of what did not succeed.
const AGAIN_AFTER: Duration = Duration::from_mins(1);

/// What is to be set up: the configuration with both versions of what has changed.
pub(crate) struct Effective {
    pub(crate) config: Config,
    pub(crate) checked: Preflight,
    pub(crate) making: Vec<Making>,
}

struct Known {
    fingerprint: String,
    source: Option<Source>,
    rebuild_wanted: bool,
}

/// Finds what has changed. `None` if nothing has: the configuration is to be set up as it is.
pub(crate) async fn effective(config: &Config, checked: &Preflight, target: &Session) -> anyhow::Result<Option<Effective>> {
    let changed = changed(config, checked, target).await?;
    if changed.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = changed.iter().map(|(name, _)| name.as_str()).collect();
    let mut wanted = config.clone();
    // What is new and reads a new version has nothing to read before that is in place.
    wanted.projections.retain(|projection| {
        names.contains(&projection.name.as_str()) || !unit::reads_any(&projection.name, &names, &checked.planned)
    });
    let mut making = Vec::new();
    for (name, known) in &changed {
        let Some(position) = wanted.projections.iter().position(|other| &other.name == name) else { continue };
        let Some(source) = known.source.clone() else { continue };
        let projection = wanted.projections[position].clone();
        wanted.projections[position] = source.configured(&projection);
        // Whoever wants it rebuilt wants its blocks rebuilt.
        let version_of = (!known.rebuild_wanted).then(|| name.clone());
        let new = ProjectionConfig { version_of, ..new_version(&projection, &config.schema, &names) };
        wanted.projections.insert(position + 1, new);
        making.extend(makings(name, checked));
    }
    unit::number(&mut making, &checked.planned);
    let mut again = preflight::run(&wanted, Depth::Start).await;
    // An old version that is not what it was any more cannot be maintained; its rows stay as they are.
    let mut out_of_date = Vec::new();
    for (name, known) in &changed {
        let same = again
            .planned
            .iter()
            .find(|planned| &planned.plan.projection == name)
            .is_some_and(|planned| fingerprint(planned, &again.planned) == known.fingerprint);
        if !same {
            out_of_date.push(name.as_str());
        }
    }
    if !out_of_date.is_empty() {
        // Nor can what reads it.
        wanted.projections.retain(|projection| {
            let name = projection.name.as_str();
            !out_of_date.contains(&name) && !unit::reads_any(name, &out_of_date, &again.planned)
        });
        again = preflight::run(&wanted, Depth::Start).await;
    }
    // A query that fails is its own projection's fault; the others go on.
    if !again.passed() && !again.only_queries_fail() {
        anyhow::bail!("{}", again.errors(false).join("; "));
    }
    for shared in again.planned.iter().flat_map(|planned| &planned.shared) {
        for made in making.iter_mut().filter(|made| made.name == shared.instead_of) {
            tracing::info!(block = shared.block, becomes = made.replaces, "the block is as it was, and stays");
            made.name.clone_from(&shared.block);
            made.stays = true;
        }
    }
    for (name, _) in &changed {
        tracing::info!(projection = name, "its definition changed: the new version is built beside the old one");
    }
    Ok(Some(Effective { config: wanted, checked: again, making }))
}

/// What has to be built anew, with what is known of it: definitions that changed, those that somebody wants rebuilt, and what reads
/// them.
async fn changed(config: &Config, checked: &Preflight, target: &Session) -> anyhow::Result<Vec<(String, Known)>> {
    let mut built = Vec::new();
    let mut changed: Vec<String> = Vec::new();
    for projection in &config.projections {
        let Some(planned) = checked.planned.iter().find(|planned| planned.plan.projection == projection.name) else { continue };
        // Without its source it cannot be maintained as it was.
        let Some(known) = known(target, &projection.name).await?.filter(|known| known.source.is_some()) else { continue };
        if known.fingerprint != fingerprint(planned, &checked.planned) || known.rebuild_wanted {
            changed.push(projection.name.clone());
        }
        built.push((projection.name.clone(), known));
    }
    let names: Vec<&str> = changed.iter().map(String::as_str).collect();
    built.retain(|(name, _)| names.contains(&name.as_str()) || unit::reads_any(name, &names, &checked.planned));
    Ok(built)
}

/// The new version, which reads the new versions of what it reads.
fn new_version(projection: &ProjectionConfig, schema: &str, changed: &[&str]) -> ProjectionConfig {
    let name = format!("{}{SUFFIX}", projection.name);
    let indexes = projection.indexes.as_deref().map(|sql| {
        let moved = indexes_for(sql, &projection.name, schema, &name, INDEX_PREFIX).unwrap_or_else(|error| {
            tracing::warn!(projection = projection.name, error, "its indexes cannot be read");
            Vec::new()
        });
        moved.join(";\n")
    });
    let sql = with_suffixed_projections(&projection.sql, schema, changed, SUFFIX);
    ProjectionConfig { name, sql, indexes, ..projection.clone() }
}

/// The new version and its hidden parts, with the fingerprints that they have under the old names.
fn makings(name: &str, checked: &Preflight) -> Vec<Making> {
    checked
        .planned
        .iter()
        .filter(|planned| checked.is_of(planned, name))
        .map(|planned| Making {
            name: renamed(&planned.plan.projection, name, &format!("{name}{SUFFIX}")),
            replaces: planned.plan.projection.clone(),
            becomes: fingerprint(planned, &checked.planned),
            stays: false,
            unit: 0,
        })
        .collect()
}

async fn known(target: &Session, name: &str) -> anyhow::Result<Option<Known>> {
    let row = target
        .query_opt(
            "SELECT fingerprint, source, rebuild_wanted FROM lockstep.projection WHERE name = $1 AND built_at IS NOT NULL",
            &[&name],
        )
        .await?;
    Ok(row.map(|row| Known {
        fingerprint: row.get(0),
        source: row.get::<_, Option<serde_json::Value>>(1).and_then(|source| serde_json::from_value(source).ok()),
        rebuild_wanted: row.get(2),
    }))
}

/// Waits until a new version is live, verifies it, and marks it as ready; returns why everything is to be set up again.
pub(crate) async fn make_ready(verifier: &Verifier, making: &[Making], statuses: &[watch::Receiver<GroupStatus>]) -> String {
    let live = |name: &str| {
        statuses.iter().any(|status| {
            status.borrow().projections.iter().any(|found| found.name == name && found.state == ProjectionState::Live)
        })
    };
    let public: Vec<&Making> =
        making.iter().filter(|made| verifier.groups.iter().any(|group| group.projections.contains(&made.name))).collect();
    if public.is_empty() {
        return std::future::pending().await;
    }
    // One that was ready at the start could not be swapped in: whatever stands in the way is not gone at once.
    if was_ready(verifier).await {
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    let mut done: Vec<&str> = Vec::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        // One that has to wait does not keep the others waiting.
        let mut pause = Duration::ZERO;
        for made in &public {
            if done.contains(&made.name.as_str()) || !live(&made.name) {
                continue;
            }
            match verified(verifier, made).await {
                Ok(Readiness::Ready) => {
                    done.push(&made.name);
                    let unit = public.iter().filter(|other| other.unit == made.unit);
                    if unit.clone().all(|other| done.contains(&other.name.as_str())) {
                        let names: Vec<&str> = unit.map(|other| other.replaces.as_str()).collect();
                        return format!("ready to take its place: the new version of {}", names.join(", "));
                    }
                }
                Ok(Readiness::Waits) => pause = pause.max(LOOK_AGAIN_AFTER),
                Ok(Readiness::Differs) => {
                    tracing::error!(
                        projection = made.name,
                        "the new version does not equal its query; it is verified again in a minute"
                    );
                    pause = AGAIN_AFTER;
                }
                Err(error) => {
                    tracing::warn!(projection = made.name, error = format!("{error:#}"), "verifying the new version");
                    pause = AGAIN_AFTER;
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether a new version has been ready since before. If that cannot be told, it is not waited for.
async fn was_ready(verifier: &Verifier) -> bool {
    let Ok(target) = Session::open(verifier.config.target_settings(), "lockstep verify").await else { return false };
    let row = target.query_one("SELECT EXISTS (SELECT FROM lockstep.projection WHERE ready)", &[]).await;
    row.is_ok_and(|row| row.get(0))
}

/// How a new version stands.
enum Readiness {
    Ready,
    /// It is not equal to its query.
    Differs,
    /// It lacks rows that the old one has.
    Waits,
}

async fn verified(verifier: &Verifier, made: &Making) -> anyhow::Result<Readiness> {
    let target = Session::open(verifier.config.target_settings(), "lockstep verify").await.context("target")?;
    if lacks_good_rows(verifier, made, &target).await? {
        return Ok(Readiness::Waits);
    }
    let wish = Wish { names: vec![made.name.clone()], sample: None, repair: true, show_values: false };
    verifier.run(&wish, None).await?;
    let good: bool = target
        .query_one(
            "SELECT coalesce((SELECT outcome IN ('equal', 'repaired', 'not comparable') FROM lockstep.verification
                              WHERE projection = $1 ORDER BY id DESC LIMIT 1), false)",
            &[&made.name],
        )
        .await?
        .get(0);
    // What began to fail while it was compared.
    if lacks_good_rows(verifier, made, &target).await? {
        return Ok(Readiness::Waits);
    }
    if good {
        target.execute("UPDATE lockstep.projection SET ready = true WHERE name = $1", &[&made.name]).await?;
    }
    Ok(if good { Readiness::Ready } else { Readiness::Differs })
}

/// Whether keys fail in a new version whose last good rows only the old one has, and are to be kept. Says so where `status` shows it.
async fn lacks_good_rows(verifier: &Verifier, made: &Making, target: &Session) -> anyhow::Result<bool> {
    let of = |name: &str| verifier.config.projections.iter().find(|projection| projection.name == name);
    let keeps = of(&made.name).or_else(|| of(&made.replaces)).is_none_or(|projection| projection.on_error == OnError::Keep);
    let failing: i64 =
        target.query_one("SELECT count(*) FROM lockstep.quarantine WHERE projection = $1", &[&made.name]).await?.get(0);
    if failing == 0 || !keeps {
        return Ok(false);
    }
    let hint = format!(
        "the new version waits beside it: {failing} keys fail there, whose last good rows only the old one has; mend them \
         (lockstep quarantine), or give them up with on_error = \"remove\""
    );
    let told = "UPDATE lockstep.projection SET hint = $2 WHERE name = $1 AND hint IS DISTINCT FROM $2";
    if target.execute(told, &[&made.replaces, &hint]).await? > 0 {
        tracing::warn!(projection = made.replaces, failing, "{hint}");
    }
    Ok(true)
}
