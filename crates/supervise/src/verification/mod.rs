//! Verification of projections at batch boundaries, and repair of what differs.

pub(crate) mod boundaries;
pub(crate) mod drift;
pub(crate) mod giving_way;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use lockstep_backstop::{Claim, Difference, Sample, SnapshotPair, Verdict};
use lockstep_config::Config;
use lockstep_connect::{Repertoire, Session, Text};
use lockstep_refresh::{GroupCommand, LiveClaim, LiveProjection, Suspects};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::catalogs::Catalogs;
use boundaries::{Boundaries, Boundary};
use giving_way::GivingWay;

/// Rows that differ are kept in memory up to this number a table; beyond it everything is refreshed.
const DIFFERENCES_MAX: usize = 10_000;

/// … and recorded up to this number.
const RECORDED_MAX: usize = 200;

/// … and logged up to this number.
const LOGGED_MAX: usize = 20;

/// How long a repair may take to be committed.
const REPAIR_MAX: Duration = Duration::from_mins(30);

/// How often progress is recorded.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How often a verification is begun that gives way to somebody again and again.
const TRIES: u32 = 5;

/// Pause before it is begun again; longer each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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
struct Asked<'a> {
    record: &'a Session,
    wish: &'a Wish,
    request: Option<i64>,
}

/// A group, and the way to it.
#[derive(Debug, Clone)]
pub(crate) struct GroupHandle {
    pub(crate) name: String,
    /// Its projections, hidden ones apart.
    pub(crate) projections: Vec<String>,
    pub(crate) commands: mpsc::UnboundedSender<GroupCommand>,
}

/// What verification needs.
#[derive(Clone)]
pub(crate) struct Verifier {
    pub(crate) config: Config,
    pub(crate) boundaries: Arc<Boundaries>,
    pub(crate) groups: Vec<GroupHandle>,
    pub(crate) giving_way: GivingWay,
    pub(crate) catalogs: Catalogs,
}

impl Verifier {
    /// Verifies what is wished for, group by group. The pipeline goes on meanwhile.
    ///
    /// # Errors
    /// A server cannot be reached, or a group does not come to a boundary. What a single projection's comparison says is recorded.
    pub(crate) async fn run(&self, wish: &Wish, request: Option<i64>) -> anyhow::Result<()> {
        // What changed without a row's change is no difference that a repair could mend: it is compared first, by another set-up.
        self.catalogs.unchanged().await;
        let record = Session::open(self.config.target_settings(), "lockstep verify").await.context("target")?;
        let asked = Asked { record: &record, wish, request };
        for group in &self.groups {
            let names: Vec<&String> =
                group.projections.iter().filter(|name| wish.names.is_empty() || wish.names.contains(name)).collect();
            if names.is_empty() {
                continue;
            }
            let mut tries = 1;
            while !self.verify_group(group, &names, asked, tries == TRIES).await? {
                tracing::info!(
                    group = group.name,
                    "its verification gave way to the application, or a table was truncated meanwhile; it is begun again"
                );
                tokio::time::sleep(AGAIN_AFTER * tries).await;
                tries += 1;
            }
        }
        for name in self.left_out(wish) {
            let mut run = Run::begin(name, asked).await?;
            run.outcome.obstacles.push("it is faulted: its query cannot be planned (lockstep status)".to_owned());
            run.finish().await?;
        }
        record
            .execute("DELETE FROM lockstep.verification WHERE started_at < clock_timestamp() - interval '90 days'", &[])
            .await?;
        Ok(())
    }
}

impl Verifier {
    /// Verifies projections of one group at a boundary. False if it gave way to somebody, or if a table was truncated meanwhile (PostgreSQL's
    /// TRUNCATE is not safe for snapshots: one that was taken before shows the table empty), unless it is the last try: then that is what is
    /// recorded.
    async fn verify_group(&self, group: &GroupHandle, names: &[&String], asked: Asked<'_>, last: bool) -> anyhow::Result<bool> {
        let Asked { record, wish, .. } = asked;
        let source = Session::open(&self.config.source, "lockstep verify").await.context("source")?;
        let files_before = files(record, &source, &group.name).await?;
        let boundary = self.boundaries.next(&self.config, &group.name, &group.commands).await?;
        let before = self.giving_way.count();
        let mut verified = Vec::with_capacity(names.len());
        for name in names {
            verified.push(projection(&boundary, name, asked).await?);
        }
        let failed = verified.iter().any(|(run, _)| !run.outcome.failures.is_empty());
        if failed && self.giving_way.count() > before {
            if !last {
                for (run, _) in verified {
                    run.forget().await?;
                }
                return Ok(false);
            }
        } else {
            // Nothing must be repaired while the snapshots stand: they would keep what is removed.
            boundary.pair.release().await?;
            if !last && files(record, &source, &group.name).await? != files_before {
                for (run, _) in verified {
                    run.forget().await?;
                }
                return Ok(false);
            }
        }
        for (mut run, suspects) in verified {
            if wish.repair && !suspects.is_empty() {
                run.outcome.repair = repair(group, suspects).await;
            }
            run.finish().await?;
        }
        Ok(true)
    }

    /// Projections that are wished for and are in no group: their queries fail. Versions in the making are never asked for by all.
    fn left_out<'a>(&'a self, wish: &'a Wish) -> impl Iterator<Item = &'a String> {
        let names = self.config.projections.iter().map(|projection| &projection.name);
        names.filter(|name| {
            let wanted = wish.names.is_empty() || wish.names.contains(name);
            wanted && !self.groups.iter().any(|group| group.projections.contains(name))
        })
    }
}

/// The files of the tables that a group reads, their partitions' too: TRUNCATE gives a table another.
async fn files(record: &Session, source: &Session, group: &str) -> anyhow::Result<Vec<String>> {
    let row = record
        .query_one(
            "SELECT ARRAY(SELECT DISTINCT r.label FROM lockstep.projection AS p, unnest(p.relations) AS r (label) WHERE p.group_name = $1)",
            &[&group],
        )
        .await?;
    let tables: Vec<String> = row.get(0);
    let row = source
        .query_one(
            "WITH tables AS (
                 SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND concat(n.nspname, '.', c.relname) = ANY ($1)
             )
             SELECT ARRAY(SELECT concat(c.oid, '/', pg_relation_filenode(c.oid))
                          FROM (SELECT t.oid FROM tables AS t
                                UNION SELECT p.relid::oid FROM tables AS t, pg_partition_tree(t.oid) AS p) AS c
                          ORDER BY c.oid)",
            &[&tables],
        )
        .await?;
    Ok(row.get(0))
}

/// What is to be refreshed, by projection.
type Found = Vec<(String, Suspects)>;

/// Verifies a projection with its hidden parts.
async fn projection<'a>(boundary: &Boundary, name: &'a str, asked: Asked<'a>) -> anyhow::Result<(Run<'a>, Found)> {
    let sample = asked.wish.sample.map(|per_ten_thousand| Sample { per_ten_thousand, seed: rand::random::<u64>().to_string() });
    let mut run = Run::begin(name, asked).await?;
    let parts: Vec<&LiveProjection> = boundary
        .live
        .iter()
        .filter(|projection| projection.name == name || projection.part_of.as_deref() == Some(name))
        .collect();
    if !parts.iter().any(|projection| projection.name == name) {
        run.outcome.obstacles.push("it is not live".to_owned());
    }
    let mut suspects = Vec::new();
    for part in parts {
        let found = run.part(&boundary.pair, part, sample.as_ref()).await?;
        if !found.is_empty() {
            suspects.push((part.name.clone(), found));
        }
    }
    Ok((run, suspects))
}

/// Hands suspects to the group.
async fn repair(group: &GroupHandle, suspects: Found) -> Repair {
    repaired_rows(group, suspects).await.map_or(Repair::NotDone, Repair::Done)
}

/// How many rows changed; nothing if the group did not get to it.
async fn repaired_rows(group: &GroupHandle, suspects: Found) -> Option<i64> {
    let mut waiting = Vec::new();
    for (projection, suspects) in suspects {
        let (reply, answer) = oneshot::channel();
        group.commands.send(GroupCommand::Repair { projection, suspects, reply: Some(reply) }).ok()?;
        waiting.push(answer);
    }
    let mut rows = 0;
    for answer in waiting {
        rows += tokio::time::timeout(REPAIR_MAX, answer).await.ok()?.ok()?;
    }
    Some(rows)
}

#[derive(Default)]
struct Outcome {
    compared: u64,
    differing: u64,
    hidden_differing: u64,
    obstacles: Vec<String>,
    failures: Vec<String>,
    repair: Repair,
    found: drift::Found,
}

/// What became of the repair.
#[derive(Clone, Copy, Default)]
enum Repair {
    /// None was asked for, or nothing differed.
    #[default]
    None,
    /// The group did not get to it.
    NotDone,
    /// So many rows changed.
    Done(i64),
}

struct Run<'a> {
    record: &'a Session,
    id: i64,
    name: &'a str,
    wish: &'a Wish,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    /// Records that it begins.
    async fn begin(name: &'a str, asked: Asked<'a>) -> anyhow::Result<Self> {
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
    async fn part(
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
    async fn forget(self) -> anyhow::Result<()> {
        self.record.execute("DELETE FROM lockstep.verification WHERE id = $1", &[&self.id]).await?;
        Ok(())
    }

    async fn finish(self) -> anyhow::Result<()> {
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
