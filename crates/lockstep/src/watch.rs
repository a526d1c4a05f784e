//! Watching the source's schema: what is not told by the stream.

use std::time::Duration;

use lockstep_capture::{Coverage, Signature, coverage, signatures};
use lockstep_connect::Session;

use crate::config::Config;
use crate::preflight::{self, Depth, Preflight};
use crate::setup::fingerprint;

/// How often the followed tables and the publication are looked at.
const TABLES_EVERY: Duration = Duration::from_secs(5);

/// The queries are planned again every so many times.
const PLANS_EVERY: u32 = 12;

/// The same while a projection is set aside because its query fails, or what it reads cannot be followed: it is to come back soon.
const SET_ASIDE_EVERY: u32 = 2;

/// Returns, with the reason, when everything has to be set up again.
pub(crate) async fn schema(config: &Config, checked: &Preflight, before: &[Signature], every: Option<Duration>) -> String {
    let mut source: Option<Session> = None;
    let planned = fingerprints(checked);
    for round in 1_u32.. {
        tokio::time::sleep(every.unwrap_or(TABLES_EVERY)).await;
        match tables(config, checked, before, &mut source).await {
            Ok(None) => {}
            Ok(Some(reason)) => return reason,
            // Whatever ails the source, the stream and the groups notice.
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "looking at the source's tables");
                source = None;
                continue;
            }
        }
        let (every, depth) = if checked.passed() { (PLANS_EVERY, Depth::Plans) } else { (SET_ASIDE_EVERY, Depth::Start) };
        if round % every != 0 {
            continue;
        }
        let again = preflight::run(config, depth).await;
        // Without a plan of anything it is the source that fails.
        if !again.planned.is_empty() && (again.passed() || again.only_queries_fail()) && fingerprints(&again) != planned {
            return "a query is planned otherwise now: the source's schema changed".to_owned();
        }
    }
    "the source's schema is watched no more".to_owned()
}

async fn tables(
    config: &Config,
    checked: &Preflight,
    before: &[Signature],
    kept: &mut Option<Session>,
) -> anyhow::Result<Option<String>> {
    let session = match kept {
        Some(session) if !session.is_closed() => session,
        _ => kept.insert(Session::open(&config.source, "lockstep monitor").await?),
    };
    let found = signatures(session, &config.publication, &checked.tracked, checked.major).await?;
    let changed = checked.tracked.iter().zip(before).zip(&found).find(|((_, before), now)| !now.follows(before));
    if let Some(((relation, _), _)) = changed {
        return Ok(Some(format!(
            "{} was replaced, or its key, its partitions, its column names or its publication changed",
            relation.label()
        )));
    }
    Ok(match coverage(session, &config.publication, &checked.tracked, checked.major).await? {
        Coverage::Complete => None,
        Coverage::Missing => Some(format!("publication {} is gone", config.publication)),
        Coverage::Incomplete(lacks) => {
            let reasons: Vec<String> = lacks.into_iter().map(|lack| lack.reason).collect();
            Some(format!("publication {}: {}", config.publication, reasons.join("; ")))
        }
    })
}

/// What is planned, and how.
fn fingerprints(checked: &Preflight) -> Vec<(String, String)> {
    let one = |planned| (preflight::Planned::name(planned), fingerprint(planned, &checked.planned));
    checked.planned.iter().map(one).collect()
}
