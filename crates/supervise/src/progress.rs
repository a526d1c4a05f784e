//! The progress of builds: bars on a terminal, a log line each when done.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_refresh::{GroupStatus, ProjectionState};
use tokio::sync::watch;

const REDRAW: Duration = Duration::from_millis(200);

/// Shows builds until all are done or the task is aborted.
pub(crate) async fn show(config: Config, statuses: Vec<watch::Receiver<GroupStatus>>, quiet: bool) {
    let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
    // Name, bar, whether it was set aside at first, whether it is done.
    let mut shown: Vec<(String, Option<ProgressBar>, bool, bool)> = Vec::new();
    for projection in statuses.iter().flat_map(|status| status.borrow().projections.clone()) {
        if projection.state != ProjectionState::Live {
            let bar = match &bars {
                Some(bars) => Some(bars.add(bar(&projection.name, expected_rows(&config).await))),
                None => None,
            };
            let faulted = matches!(projection.state, ProjectionState::Faulted | ProjectionState::Degraded);
            shown.push((projection.name, bar, faulted, false));
        }
    }
    while shown.iter().any(|(_, _, _, done)| !done) {
        for projection in statuses.iter().flat_map(|status| status.borrow().projections.clone()) {
            let Some((_, bar, faulted, done)) = shown.iter_mut().find(|(name, ..)| *name == projection.name) else { continue };
            if let Some(bar) = bar {
                bar.set_position(projection.built_roots);
            }
            // One that is set aside says so itself, and may come back.
            let settled = projection.state == ProjectionState::Live;
            if settled && !*done {
                *done = true;
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                let what = if *faulted { "compared and repaired" } else { "built" };
                tracing::info!(projection = projection.name, rows = projection.rows, "{what}");
            }
        }
        tokio::time::sleep(REDRAW).await;
    }
}

fn bar(name: &str, expected: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:24} {bar:30} {human_pos:>12} rows")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(expected).with_style(style).with_prefix(name.to_owned())
}

/// A rough size for the bars: the rows of the largest table that is published. 0 where unknown.
async fn expected_rows(config: &Config) -> u64 {
    let Ok(source) = Session::open(&config.source, "lockstep progress").await else { return 0 };
    let row = source
        .query_one(
            "SELECT coalesce(max(c.reltuples), 0)::bigint FROM pg_publication_tables p
             JOIN pg_namespace n ON n.nspname = p.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
             WHERE p.pubname = $1",
            &[&config.publication],
        )
        .await;
    row.ok().and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok()).unwrap_or(0)
}
