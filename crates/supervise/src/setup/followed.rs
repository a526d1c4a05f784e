//! The source's tables as they were when they were last known to be followed without a gap, and what has to be compared since.

use std::collections::BTreeMap;

use lockstep_capture::{Coverage, Signature, Tracked, coverage, publication_statements, signatures};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::{Planned, Preflight};
use lockstep_refresh::analysis::Meaning;

/// Why what the publication lacked is compared.
const INCOMPLETE: &str = "the publication was incomplete; all rows are being compared";

/// Why what changed while it was set up is compared.
pub(crate) const CHANGED_MEANWHILE: &str =
    "a source table or its publication changed during the set-up; all rows are being compared";

/// What the source tables of a projection are, by name.
pub(crate) type Signatures = BTreeMap<String, Signature>;

/// Those of the tables that a projection reads.
pub(crate) fn relation_signatures(planned: &Planned, tracked: &[Tracked], signatures: &[Signature]) -> Signatures {
    let read = |tracked: &Tracked| planned.plan.relations.iter().any(|relation| relation.oid == tracked.oid);
    let pairs = tracked.iter().zip(signatures).filter(|(tracked, _)| read(tracked));
    pairs.map(|(tracked, signature)| (tracked.label(), signature.clone())).collect()
}

/// Whether nothing has happened since `before` that a projection has to be compared for.
pub(crate) fn follow(now: &Signatures, before: &Signatures) -> bool {
    before.iter().all(|(name, before)| now.get(name).is_some_and(|now| now.follows(before)))
}

/// Why a projection has to be compared that was set up before with the same definition; `None` if nothing has happened that it would
/// have missed.
pub(crate) async fn missed(target: &Session, preflight: &Preflight, planned: &Planned) -> anyhow::Result<Option<String>> {
    let row = target
        .query_opt(
            "SELECT relation_signature::jsonb, meaning FROM lockstep.projection WHERE name = $1",
            &[&planned.plan.projection],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let tables: Option<Signatures> = stored(row.get(0));
    let now = relation_signatures(planned, &preflight.tracked, &preflight.signatures);
    if tables.is_some_and(|before| !follow(&now, &before)) {
        return Ok(Some(
            "a source table was replaced, or its partitions or its publication changed; all rows are being compared".to_owned(),
        ));
    }
    let meaning: Option<Meaning> = stored(row.get(1));
    let now = preflight.meanings.get(&planned.plan.projection);
    let changed = now.zip(meaning).map(|(now, before)| now.changed_since(&before)).unwrap_or_default();
    Ok((!changed.is_empty()).then(|| format!("{} changed; all rows are being compared", named(&changed))))
}

fn stored<T: serde::de::DeserializeOwned>(value: Option<serde_json::Value>) -> Option<T> {
    value.and_then(|value| serde_json::from_value(value).ok())
}

/// Some of what has changed, for people.
pub(crate) fn named(changed: &[String]) -> String {
    match changed {
        [first, second, third, _, ..] => format!("{first}, {second}, {third} and {} more", changed.len() - 3),
        few => few.join(", "),
    }
}

/// The projections that a set-up will find to have missed changes: their source tables were replaced, or were not published for a while.
/// Their groups must not go on meanwhile, lest they record them as live.
pub(crate) async fn have_missed_changes(config: &Config, preflight: &Preflight, target: &Session) -> anyhow::Result<Vec<String>> {
    let source = Session::open(&config.source, "lockstep").await?;
    let found = coverage(&source, &config.publication, &preflight.tracked, preflight.major).await?;
    let mut names = Vec::new();
    for planned in &preflight.planned {
        if lacks_publication(planned, preflight, &found) || missed(target, preflight, planned).await?.is_some() {
            names.push(planned.plan.projection.clone());
        }
    }
    Ok(names)
}

/// Whether changes of what a projection reads may not have been published.
fn lacks_publication(planned: &Planned, preflight: &Preflight, found: &Coverage) -> bool {
    let reads = |index: usize| planned.plan.relations.iter().any(|relation| relation.oid == preflight.tracked[index].oid);
    match found {
        Coverage::Complete => false,
        Coverage::Missing => true,
        // A table that is added concerns nobody but those who read it; what lacks without naming one lacks for all.
        Coverage::Incomplete(lacks) => lacks.iter().any(|lack| lack.relation().is_none_or(reads)),
    }
}

/// Records what the source tables are now that they are published; returns it, and the projections whose tables changed since they were
/// planned.
pub(crate) async fn record_signatures(
    config: &Config,
    preflight: &Preflight,
    source: &Session,
    target: &Session,
) -> anyhow::Result<(Vec<Signature>, Vec<String>)> {
    let mut changed = Vec::new();
    let signatures = signatures(source, &config.publication, &preflight.tracked, preflight.major).await?;
    for planned in &preflight.planned {
        let now = relation_signatures(planned, &preflight.tracked, &signatures);
        if !follow(&now, &relation_signatures(planned, &preflight.tracked, &preflight.signatures)) {
            mark_stale(target, Some(&planned.plan.projection), CHANGED_MEANWHILE).await?;
            changed.push(planned.plan.projection.clone());
        }
        let of_it = serde_json::to_string(&now)?;
        let meaning = preflight.meanings.get(&planned.plan.projection).map(serde_json::to_value).transpose()?;
        target
            .execute(
                "UPDATE lockstep.projection SET relation_signature = $2, meaning = $3
                 WHERE name = $1 AND (relation_signature IS DISTINCT FROM $2 OR meaning IS DISTINCT FROM $3)",
                &[&planned.plan.projection, &of_it, &meaning],
            )
            .await?;
    }
    Ok((signatures, changed))
}

/// Notes that a projection, or all, may have missed changes: it is refreshed in full before it counts as live again. Readers keep
/// what is there.
pub(crate) async fn mark_stale(target: &Session, name: Option<&str>, reason: &str) -> anyhow::Result<()> {
    target
        .execute(
            "UPDATE lockstep.projection
             SET state = CASE WHEN built_at IS NULL THEN 'faulted' ELSE 'degraded' END, reason = $2, changed_at = now()
             WHERE ($1::text IS NULL OR name = $1) AND state IN ('live', 'building')",
            &[&name, &reason],
        )
        .await?;
    Ok(())
}

/// Makes the publication cover what is tracked. A projection that exists already has missed what was not published.
pub(crate) async fn publish(config: &Config, preflight: &Preflight, source: &Session, target: &Session) -> anyhow::Result<()> {
    let found = coverage(source, &config.publication, &preflight.tracked, preflight.major).await?;
    if found == Coverage::Complete {
        return Ok(());
    }
    if let Coverage::Incomplete(lacks) = &found {
        let reasons: Vec<&str> = lacks.iter().map(|lack| lack.reason.as_str()).collect();
        tracing::info!(publication = config.publication, lacks = reasons.join("; "), "extending the publication");
    }
    for planned in preflight.planned.iter().filter(|planned| lacks_publication(planned, preflight, &found)) {
        mark_stale(target, Some(&planned.plan.projection), INCOMPLETE).await?;
    }
    for statement in publication_statements(&config.publication, &preflight.tracked, preflight.major, &found) {
        source.batch_execute(&statement).await?;
    }
    Ok(())
}
