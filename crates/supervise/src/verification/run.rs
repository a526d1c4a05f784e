//! One projection's verification: what is compared, and what is recorded of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_backstop::{Claim, Difference, Sample, SnapshotPair, Verdict};
use lockstep_connect::{Repertoire, Session, Text};
use lockstep_refresh::{LiveClaim, LiveProjection, Suspects};
use serde::{Deserialize, Serialize};

use super::drift;

/// Rows that differ are kept in memory up to this number a table; beyond it everything is refreshed.
const DIFFERENCES_MAX: usize = 10_000;

/// … and recorded up to this number.
const RECORDED_MAX: usize = 200;

/// … and logged up to this number.
const LOGGED_MAX: usize = 20;

/// How often progress is recorded.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How much is verified, and what is done about differences.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// Only these projections; all if empty.
    #[serde(default)]
    pub names: Vec<String>,
    /// Only so many rows of ten thousand.
    pub sample: Option<u32>,
    /// Refresh what differs.
    #[serde(default)]
    pub repair: bool,
    /// Record the values of rows that differ.
    #[serde(default)]
    pub show_values: bool,
}

/// A wish, on whose behalf, and where what comes of it is recorded.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) record: &'a Session,
    pub(super) wish: &'a Wish,
    pub(super) request: Option<i64>,
}

#[derive(Default)]
pub(super) struct Outcome {
    compared: u64,
    differing: u64,
    hidden_differing: u64,
    pub(super) obstacles: Vec<String>,
    pub(super) failures: Vec<String>,
    pub(super) repair: Repair,
    found: drift::Found,
}

/// What became of the repair.
#[derive(Clone, Copy, Default)]
pub(super) enum Repair {
    /// None was asked for, or nothing differed.
    #[default]
    None,
    /// The group did not get to it.
    NotDone,
    /// So many rows changed.
    Done(i64),
}

pub(super) struct Run<'a> {
    record: &'a Session,
    id: i64,
    name: &'a str,
    wish: &'a Wish,
    pub(super) outcome: Outcome,
}

impl<'a> Run<'a> {
    /// Records that it begins.
    pub(super) async fn begin(name: &'a str, asked: Asked<'a>) -> anyhow::Result<Self> {
        let Asked { record, wish, request } = asked;
        let sample = wish.sample.map(|share| format!("{}%", f64::from(share) / 100.0));
        let row = record
            .query_one(
                "INSERT INTO lockstep.verification (request, projection, sample) VALUES ($1, $2, $3) RETURNING id",
                &[&request, &name, &sample],
            )
            .await?;
        Ok(Self { record, id: row.get(0), name, wish, outcome: Outcome::default() })
    }
}

impl Run<'_> {
    /// Verifies one projection's table and its hidden tables; returns what is to be refreshed.
    pub(super) async fn part(
        &mut self,
        pair: &SnapshotPair,
        projection: &LiveProjection,
        sample: Option<&Sample>,
    ) -> anyhow::Result<Suspects> {
        let mut suspects = Suspects::default();
        if projection.quarantined > 0 {
            self.outcome.obstacles.push(format!("{} of its keys are in quarantine and were left out", projection.quarantined));
        }
        for claim in &projection.claims {
            let inner = projection.name != self.name;
            let own = claim.part == "rows" && !inner;
            let label = if inner { format!("{} {}", projection.name, claim.part) } else { claim.part.clone() };
            if let Some(obstacle) = &claim.obstacle {
                self.outcome.obstacles.push(obstacle.clone());
                continue;
            }
            let verdict = match self.verdict(pair, projection, claim, sample).await? {
                Ok(verdict) => verdict,
                Err(failure) => {
                    self.outcome.failures.push(format!("{label}: {failure}"));
                    continue;
                }
            };
            self.outcome.compared += verdict.rows;
            let differing = if own { &mut self.outcome.differing } else { &mut self.outcome.hidden_differing };
            *differing += verdict.differing;
            if verdict.differing > verdict.differences.len() as u64 {
                suspects = Suspects::everything();
                self.outcome.found.others(verdict.differing - verdict.differences.len() as u64);
            }
            for difference in &verdict.differences {
                if let Some(row) = difference.rows().next() {
                    let key = columns_of(row, &claim.columns, &claim.key);
                    self.outcome.found.row(&label, &key, difference.actual.as_deref());
                }
                for row in difference.rows() {
                    suspects.add(claim.suspect, columns_of(row, &claim.columns, &claim.suspect_columns));
                }
            }
            self.record_differences(&label, claim, &verdict.differences).await?;
        }
        Ok(suspects)
    }

    /// Compares, recording progress meanwhile. The inner error is the comparison's.
    async fn verdict(
        &self,
        pair: &SnapshotPair,
        projection: &LiveProjection,
        claim: &LiveClaim,
        sample: Option<&Sample>,
    ) -> anyhow::Result<Result<Verdict, String>> {
        let read = AtomicU64::new(0);
        let progress = |rows| read.store(rows, Ordering::Relaxed);
        let claimed = Claim {
            table: claim.table.clone(),
            definition: claim.definition.clone(),
            on_target: claim.on_target,
            columns: claim.columns.clone(),
            key: claim.key.clone(),
            without: claim.without.clone(),
            time_zone: projection.time_zone.clone(),
        };
        let comparing = pair.verify(&claimed, sample, DIFFERENCES_MAX, &progress);
        let recording = async {
            loop {
                tokio::time::sleep(PROGRESS_INTERVAL).await;
                let rows = i64::try_from(self.outcome.compared + read.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
                // Progress is for the onlooker: a failure to record it shows elsewhere.
                drop(
                    self.record.execute("UPDATE lockstep.verification SET compared = $2 WHERE id = $1", &[&self.id, &rows]).await,
                );
            }
        };
        tokio::select! {
            verdict = comparing => Ok(verdict.map_err(|error| error.to_string())),
            () = recording => Ok(Err("its progress ended".to_owned())),
        }
    }

    async fn record_differences(&self, label: &str, claim: &LiveClaim, differences: &[Difference]) -> anyhow::Result<()> {
        if differences.is_empty() {
            return Ok(());
        }
        let repertoire = Repertoire::of_session(self.record).await?;
        let recorded = |row: &[Option<Text>]| -> Vec<Option<String>> {
            row.iter().map(|value| value.as_ref().map(|text| text.recorded(repertoire).into_owned())).collect()
        };
        for (number, difference) in differences.iter().take(RECORDED_MAX).enumerate() {
            let Some(row) = difference.rows().next() else { continue };
            let key = recorded(&columns_of(row, &claim.columns, &claim.key));
            let differ: Vec<&String> = difference.columns().into_iter().map(|position| &claim.columns[position]).collect();
            if number < LOGGED_MAX {
                let shown = if claim.key.len() == claim.columns.len() { "(a row without a key)".to_owned() } else { shown(&key) };
                tracing::warn!(projection = self.name, part = label, kind = difference.kind.name(), key = shown, "a row differs");
            }
            // Where a row has no key, its key is all of its values.
            let key = if claim.key.len() == claim.columns.len() && !self.wish.show_values { Vec::new() } else { key };
            let values = |row: &Option<Vec<Option<Text>>>| row.as_deref().filter(|_| self.wish.show_values).map(recorded);
            self.record
                .execute(
                    "INSERT INTO lockstep.difference (verification, part, kind, key, columns, expected, actual)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    &[
                        &self.id,
                        &label,
                        &difference.kind.name(),
                        &key,
                        &differ,
                        &values(&difference.expected),
                        &values(&difference.actual),
                    ],
                )
                .await?;
        }
        Ok(())
    }

    /// It is begun again.
    pub(super) async fn forget(self) -> anyhow::Result<()> {
        self.record.execute("DELETE FROM lockstep.verification WHERE id = $1", &[&self.id]).await?;
        Ok(())
    }

    pub(super) async fn finish(self) -> anyhow::Result<()> {
        let Outcome { compared, differing, hidden_differing, mut obstacles, failures, repair, found } = self.outcome;
        obstacles.dedup();
        let different = differing + hidden_differing > 0;
        let (outcome, message) = match repair {
            _ if !failures.is_empty() => ("failed", failures.join("; ")),
            Repair::Done(_) => ("repaired", obstacles.join("; ")),
            Repair::NotDone => ("different", "the repair was not done".to_owned()),
            Repair::None if different => ("different", obstacles.join("; ")),
            Repair::None if !obstacles.is_empty() => ("not comparable", obstacles.join("; ")),
            Repair::None => ("equal", String::new()),
        };
        let repaired = match repair {
            Repair::Done(rows) => Some(rows),
            Repair::None | Repair::NotDone => None,
        };
        let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.record
            .execute(
                "UPDATE lockstep.verification
                 SET finished_at = clock_timestamp(), compared = $2, differing = $3, hidden_differing = $4, repaired = $5, outcome = $6,
                     message = nullif($7, '')
                 WHERE id = $1",
                &[&self.id, &count(compared), &count(differing), &count(hidden_differing), &repaired, &outcome, &message],
            )
            .await?;
        measure(self.name, outcome, compared, repaired);
        // What a verification at an equal snapshot finds, no change explains.
        let saw_all = self.wish.sample.is_none() && !["failed", "not comparable"].contains(&outcome);
        let extent = if saw_all { drift::Extent::All } else { drift::Extent::Part };
        drift::looked(self.name, &found, extent, repaired.is_some());
        match outcome {
            "equal" => tracing::info!(projection = self.name, rows = compared, "verified: equal"),
            _ => tracing::warn!(projection = self.name, differing, hidden_differing, outcome, message, "verified"),
        }
        Ok(())
    }
}

fn measure(projection: &str, outcome: &'static str, compared: u64, repaired: Option<i64>) {
    let labels = [("projection", projection.to_owned())];
    metrics::counter!("lockstep_verifications_total", "projection" => projection.to_owned(), "outcome" => outcome).increment(1);
    metrics::counter!("lockstep_verified_rows_total", &labels).increment(compared);
    metrics::counter!("lockstep_repaired_rows_total", &labels)
        .increment(repaired.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0));
}

/// The values of some of a row's columns.
fn columns_of(row: &[Option<Text>], columns: &[String], wanted: &[String]) -> Vec<Option<Text>> {
    wanted.iter().filter_map(|name| columns.iter().position(|column| column == name)).map(|n| row[n].clone()).collect()
}

/// A key for people.
pub fn shown(key: &[Option<String>]) -> String {
    key.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(", ")
}
