//! Every construct of SQL, and every fault that other systems had: maintained as it should be, and after every batch equal to its query.

mod blocks;
mod construct;
mod grouped;
mod rows;
mod sets;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use lockstep_plan::Maintenance;
use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, Workload, cluster, seed_from_environment};

use crate::harness::{Progress, Projector, Setup, assert_equal, shop};
use crate::locks::{Locks, LocksAnd};
use blocks::BLOCKS;
use construct::Construct;
use construct::How::{Incremental, Inner, Partly, Whole};
use grouped::{ACCUMULATED, CHAINS, GROUPS};
use rows::{FROM_ITEMS, JOINS, SUBQUERIES};
use sets::SETS;

/// All of them, by name, query and additional TOML.
pub(crate) fn all() -> Vec<(&'static str, &'static str, &'static str)> {
    let all = [JOINS, SUBQUERIES, FROM_ITEMS, GROUPS, ACCUMULATED, CHAINS, BLOCKS, SETS].concat();
    all.into_iter().map(|(name, _, sql, extra)| (name, sql, extra)).collect()
}

/// Commits in a run.
const COMMITS: u64 = 600;

/// … in which every projection is compared at least this often.
const COMPARISONS: u64 = 8;

fn setup(url: &str, constructs: &[Construct]) -> Setup {
    let projections: Vec<(&str, &str, &str)> = constructs.iter().map(|(name, _, sql, extra)| (*name, *sql, *extra)).collect();
    Setup::new(url, &projections)
}

async fn conforms(constructs: &[Construct], two_databases: bool) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let mut setup = setup(&source.url("postgres"), constructs);
    "[[group]]\nname = \"methods\"\n".clone_into(&mut setup.preamble);
    setup.target_url = target.as_ref().map(|target| target.url("postgres"));
    shop(&setup.source_url).await?;
    expect_plans(&setup, constructs).await?;
    let oracle = Arc::new(Oracle::strict());
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    workload.reach(20).await?;
    let locks = Arc::new(Locks::default());
    let both = Arc::new(LocksAnd(locks.clone(), oracle.clone()));
    let mut projector = Projector::start(&setup, Some(both), RefreshOptions::default()).await?;
    let enough = || constructs.iter().all(|(name, ..)| oracle.of(name).compared >= COMPARISONS);
    let mut progress = Progress::default();
    while workload.commits() < COMMITS || !enough() {
        workload.reach(workload.commits() + 20).await?;
        anyhow::ensure!(!projector.ended(), "the projector ended: {:?}", projector.end().await);
        let few = constructs.iter().filter(|(name, ..)| oracle.of(name).compared < COMPARISONS).map(|(name, ..)| *name);
        progress.reached(oracle.total().compared).with_context(|| few.collect::<Vec<_>>().join(", "))?;
    }
    workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("{} comparisons, {} different", total.compared, total.different);
    assert_eq!(total.different, 0);
    locks.none_beyond_reading()?;
    assert_equal(&setup).await
}

/// The plans are what the specification asks for.
async fn expect_plans(setup: &Setup, constructs: &[Construct]) -> anyhow::Result<()> {
    let preflight = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(preflight.passed(), "{}", preflight.errors(false).join("\n"));
    let found: BTreeMap<&str, String> = preflight
        .planned
        .iter()
        .filter(|planned| planned.part_of.is_none())
        .map(|planned| {
            let parts = || preflight.planned.iter().filter(|part| preflight.is_of(part, &planned.plan.projection));
            let how = match (planned.plan.kind(), planned.plan.is_incremental()) {
                (_, true) if parts().all(|part| part.plan.is_incremental()) => format!("{Incremental:?}"),
                (_, true) => format!("{Inner:?}"),
                ("whole", _) if parts().count() > 1 => format!("{Inner:?}"),
                ("whole", _) => format!("{Whole:?}"),
                (_, false) => format!("{Partly:?}"),
            };
            (planned.plan.projection.as_str(), how)
        })
        .collect();
    let expected: BTreeMap<&str, String> = constructs.iter().map(|(name, how, ..)| (*name, format!("{how:?}"))).collect();
    let reasons: Vec<String> = preflight
        .planned
        .iter()
        .filter(|planned| {
            planned.part_of.is_none() && found[planned.plan.projection.as_str()] != expected[planned.plan.projection.as_str()]
        })
        .map(|planned| format!("{}: {:?}", planned.plan.projection, planned.plan.maintenance))
        .collect();
    assert_eq!(found, expected, "{}", reasons.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn joins() -> anyhow::Result<()> {
    conforms(JOINS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn subqueries() -> anyhow::Result<()> {
    conforms(SUBQUERIES, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_items() -> anyhow::Result<()> {
    conforms(FROM_ITEMS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn groups() -> anyhow::Result<()> {
    conforms(GROUPS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks() -> anyhow::Result<()> {
    conforms(BLOCKS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_with_two_databases() -> anyhow::Result<()> {
    conforms(BLOCKS, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sets() -> anyhow::Result<()> {
    conforms(SETS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_with_two_databases() -> anyhow::Result<()> {
    conforms(SETS, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accumulators() -> anyhow::Result<()> {
    conforms(ACCUMULATED, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accumulators_with_two_databases() -> anyhow::Result<()> {
    conforms(ACCUMULATED, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accumulators_are_chosen_by_type() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut all = setup(&cluster.url("postgres"), ACCUMULATED);
    let recomputed = [
        ("sorted", "SELECT o.status, string_agg(o.id::text, ',' ORDER BY o.id) AS ids FROM shop.orders o GROUP BY o.status"),
        ("floating", "SELECT o.status, sum(o.amount::double precision) AS total FROM shop.orders o GROUP BY o.status"),
        ("longest", "SELECT o.customer_id, max(o.status) AS last FROM shop.orders o GROUP BY o.customer_id"),
        ("spelled", "SELECT o.amount, count(*) AS n FROM shop.orders o GROUP BY o.amount"),
        (
            "median",
            "SELECT o.status, percentile_cont(0.5) WITHIN GROUP (ORDER BY o.id) AS middle FROM shop.orders o GROUP BY o.status",
        ),
    ];
    all.projections.extend(recomputed.map(|(name, sql)| (name.to_owned(), sql.to_owned(), String::new())));
    shop(&all.source_url).await?;
    let checked = preflight::run(&all.config(), Depth::Plans).await;
    assert_eq!(checked.planned.len(), ACCUMULATED.len() + recomputed.len());
    for planned in &checked.planned {
        let Maintenance::Grouped(grouped) = &planned.plan.maintenance else { panic!("{}", planned.plan.projection) };
        let expected = !recomputed.iter().any(|(name, _)| *name == planned.plan.projection);
        assert_eq!(grouped.accumulators.is_some(), expected, "{}: {:?}", planned.plan.projection, grouped.recomputed_because);
        assert_eq!(grouped.recomputed_because.is_some(), !expected);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chains() -> anyhow::Result<()> {
    conforms(CHAINS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_with_two_databases() -> anyhow::Result<()> {
    conforms(CHAINS, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_with_two_databases() -> anyhow::Result<()> {
    let mut constructs: Vec<Construct> = [JOINS, SUBQUERIES, FROM_ITEMS, GROUPS].concat().into_iter().step_by(3).collect();
    // The first rows of a table are read whole where it is; in another database it is a block first, which is kept.
    constructs.iter_mut().filter(|(name, ..)| *name == "limited").for_each(|(_, how, ..)| *how = Incremental);
    conforms(&constructs, true).await
}
