//! The source's tables as they were when they were last known to be followed without a gap, and what has to be compared since.

use std::collections::BTreeMap;

use lockstep_capture::{Coverage, Lack, Signature, Tracked, coverage, publication_statements, signatures};
use lockstep_connect::Session;

use crate::config::Config;
use crate::preflight::{Planned, Preflight};

/// Why what the publication lacked is compared.
const INCOMPLETE: &str = "the publication was incomplete; all rows are being compared";

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

/// Records what the source tables are now that they are published.
pub(crate) async fn record_signatures(
    config: &Config,
    preflight: &Preflight,
    source: &Session,
    target: &Session,
) -> anyhow::Result<Vec<Signature>> {
    let signatures = signatures(source, &config.publication, &preflight.tracked, preflight.major).await?;
    for planned in &preflight.planned {
        let now = relation_signatures(planned, &preflight.tracked, &signatures);
        if !follow(&now, &relation_signatures(planned, &preflight.tracked, &preflight.signatures)) {
            let reason = "a source table or its publication changed during the set-up; all rows are being compared";
            mark_stale(target, Some(&planned.plan.projection), reason).await?;
        }
        let of_it = serde_json::to_string(&now)?;
        target
            .execute(
                "UPDATE lockstep.projection SET relation_signature = $2 WHERE name = $1",
                &[&planned.plan.projection, &of_it],
            )
            .await?;
    }
    Ok(signatures)
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
    let mut lacking = None;
    if let Coverage::Incomplete(lacks) = &found {
        let reasons: Vec<&str> = lacks.iter().map(|lack| lack.reason.as_str()).collect();
        tracing::info!(publication = config.publication, lacks = reasons.join("; "), "extending the publication");
        lacking = lacks.iter().map(Lack::relation).collect::<Option<Vec<usize>>>();
    }
    match lacking {
        // A table that is added concerns nobody but those who read it.
        Some(relations) => {
            let oids: Vec<u32> = relations.iter().map(|&index| preflight.tracked[index].oid).collect();
            let reads = |planned: &&Planned| planned.plan.relations.iter().any(|relation| oids.contains(&relation.oid));
            for planned in preflight.planned.iter().filter(reads) {
                mark_stale(target, Some(&planned.plan.projection), INCOMPLETE).await?;
            }
        }
        None => mark_stale(target, None, INCOMPLETE).await?,
    }
    for statement in publication_statements(&config.publication, &preflight.tracked, preflight.major, &found) {
        source.batch_execute(&statement).await?;
    }
    Ok(())
}
