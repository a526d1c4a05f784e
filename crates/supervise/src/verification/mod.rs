//! Verification of projections at batch boundaries, and repair of what differs.

pub(crate) mod boundaries;
pub(crate) mod ddl_yield;
pub(crate) mod drift;
mod run;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lockstep_backstop::Sample;
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_refresh::{GroupCommand, LiveProjection, Suspects};
use tokio::sync::{mpsc, oneshot};

use crate::catalogs::Catalogs;
use boundaries::{Boundaries, Boundary};
use ddl_yield::GivingWay;
use run::{Asked, Repair, Run};
pub use run::{Wish, shown};

/// How long a repair may take to be committed.
const REPAIR_MAX: Duration = Duration::from_mins(30);

/// How often a verification is begun that gives way to somebody again and again.
const TRIES: u32 = 5;

/// Pause before it is begun again; longer each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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
