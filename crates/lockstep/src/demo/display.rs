//! What the demonstration shows: a live table on a terminal, a line now and then elsewhere, a summary at the end.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use lockstep_refresh::GroupStatus;

use super::verifier::{Report, quantile};
use crate::commands::common;
use crate::run::Addresses;

/// Without a terminal a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Freshness is shown over the last so many transactions.
const RECENT: usize = 2_000;

pub(super) struct Display {
    json: bool,
    live: bool,
    last: std::cell::Cell<Option<Instant>>,
    /// Where there is something to look at and to ask.
    addresses: std::cell::Cell<Addresses>,
}

impl Display {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            live: !json && std::io::stdout().is_terminal(),
            last: std::cell::Cell::new(None),
            addresses: std::cell::Cell::default(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    pub(super) fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// Says where there is something to look at and to ask.
    pub(super) fn look_at(&self, addresses: Addresses) {
        self.addresses.set(addresses);
        self.say(&self.places());
    }

    fn places(&self) -> String {
        let Addresses { metrics, api } = self.addresses.get();
        let page = metrics.map(|page| format!("look at it:  http://{page}/"));
        let api = api.map(|api| format!("ask it:      curl 'http://{api}/api/products?inStock=true&sortBy=price&limit=3'"));
        [page, api].into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    /// One look at the state.
    pub(super) fn frame(&self, report: &Report, commits: u64, elapsed: Duration, groups: &[GroupStatus]) {
        if self.json {
            return;
        }
        let recent = &report.freshness[report.freshness.len().saturating_sub(RECENT)..];
        let ms = |share| quantile(recent, share).map_or("-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0));
        let compared: u64 = report.comparisons.values().map(|tally| tally.compared).sum();
        let different: u64 = report.comparisons.values().map(|tally| tally.different).sum();
        let line = format!(
            "{:4.0} s  {:5.0} changes/s  freshness p50 {} p99 {}  staleness {}  {} batches  {compared} comparisons, {different} different",
            elapsed.as_secs_f64(),
            rate(commits, elapsed),
            ms(0.5),
            ms(0.99),
            staleness(groups),
            report.batches
        );
        if self.live {
            print!("\x1b[2J\x1b[H{line}\n\n{}\n\n{}\nCtrl-C ends it.\n", table(report, groups), self.places());
            // A closed standard output ends the demonstration at the next print.
            drop(std::io::stdout().flush());
        } else if self.last.get().is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last.set(Some(Instant::now()));
            println!("{line}");
        }
    }

    pub(super) fn summary(&self, report: &Report, commits: u64, worked: Duration, groups: &[GroupStatus]) -> anyhow::Result<()> {
        if self.json {
            let summary = serde_json::json!({
                "seconds": worked.as_secs_f64(), "commits": commits, "batches": report.batches,
                "freshness_ms": { "p50": report.freshness_ms(0.5), "p99": report.freshness_ms(0.99), "max": report.freshness_ms(1.0) },
                "comparisons": report.comparisons, "errors": report.errors,
            });
            println!("{}", serde_json::to_string_pretty(&summary)?);
            return Ok(());
        }
        let ms = |share| report.freshness_ms(share).map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        println!(
            "\nSummary: {commits} commits in {:.1} s ({:.0}/s), {} batches",
            worked.as_secs_f64(),
            rate(commits, worked),
            report.batches
        );
        println!("Commit to visible: p50 {}, p99 {}, max {}\n", ms(0.5), ms(0.99), ms(1.0));
        println!("{}", table(report, groups));
        for error in &report.errors {
            println!("comparison failed: {error}");
        }
        let different: u64 = report.comparisons.values().map(|tally| tally.different).sum();
        let compared: u64 = report.comparisons.values().map(|tally| tally.compared).sum();
        if different == 0 && report.errors.is_empty() {
            println!("\nEvery one of {compared} comparisons with the defining queries was equal.");
        } else {
            println!("\n{different} of {compared} comparisons were DIFFERENT.");
        }
        Ok(())
    }
}

fn table(report: &Report, groups: &[GroupStatus]) -> String {
    let mut table = common::table(&["PROJECTION", "GROUP", "STATE", "ROWS", "COMPARED", "DIFFERENT"]);
    for group in groups {
        for projection in &group.projections {
            let tally = report.comparisons.get(&projection.name).cloned().unwrap_or_default();
            table.add_row([
                projection.name.clone(),
                group.name.clone(),
                projection.state.name().to_owned(),
                projection.rows.to_string(),
                tally.compared.to_string(),
                tally.different.to_string(),
            ]);
        }
    }
    table.to_string()
}

#[allow(clippy::cast_precision_loss)]
fn rate(commits: u64, elapsed: Duration) -> f64 {
    commits as f64 / elapsed.as_secs_f64().max(0.001)
}

/// The staleness of the group that is furthest behind.
fn staleness(groups: &[GroupStatus]) -> String {
    let oldest = groups.iter().filter_map(|group| group.current_as_of).min();
    oldest.map_or("-".to_owned(), |as_of| format!("{:.0} ms", as_of.elapsed().as_secs_f64() * 1000.0))
}
