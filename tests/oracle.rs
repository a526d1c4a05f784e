//! After every batch, under random concurrent writers, every projection equals its defining query at the batch's snapshot.

use std::sync::Arc;

use lockstep_refresh::{FencePolicy, RefreshOptions};
use lockstep_testkit::{Oracle, Workload, cluster, seed_from_environment};

use crate::harness::{PROJECTIONS, Progress, Projector, Setup, assert_equal, shop};

/// Commits in a run.
const COMMITS: u64 = 1_500;

/// … in which every projection is compared at least this often.
const COMPARISONS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_exact_in_one_database() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    random_writers(&setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_exact_with_a_target_on_another_server() -> anyhow::Result<()> {
    let (source, target) = (cluster()?, cluster()?);
    let mut setup = Setup::new(&source.url("postgres"), PROJECTIONS);
    setup.target_url = Some(target.url("postgres"));
    random_writers(&setup).await
}

async fn random_writers(setup: &Setup) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    shop(&setup.source_url).await?;
    let oracle = Arc::new(Oracle::strict());
    // Writers are at work from before the build to the end.
    let mut workload = Workload::start(&setup.source_url, 4, seed);
    workload.reach(50).await?;
    let mut projector = Projector::start(setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    let enough = |oracle: &Oracle| PROJECTIONS.iter().all(|(name, _, _)| oracle.of(name).compared >= COMPARISONS);
    let mut progress = Progress::default();
    while workload.commits() < COMMITS || !enough(&oracle) {
        workload.reach(workload.commits() + 100).await?;
        anyhow::ensure!(!projector.ended(), "the projector ended: {:?}", projector.end().await);
        progress.reached(oracle.total().compared)?;
    }
    let commits = workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("{commits} commits, {} comparisons, {} different", total.compared, total.different);
    assert_eq!(total.different, 0);
    assert_equal(setup).await
}

/// The negative control: without the fence, batches miss changes that their snapshot sees, and the oracle says so.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_batches_are_wrong() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &PROJECTIONS[..5]);
    shop(&setup.source_url).await?;
    let oracle = Arc::new(Oracle::counting());
    let options = RefreshOptions { fence: FencePolicy::SkipForNegativeControl, ..RefreshOptions::default() };
    let mut projector = Projector::start(&setup, Some(oracle.clone()), options).await?;
    projector.catch_up().await?;
    let mut workload = Workload::start(&setup.source_url, 4, seed);
    workload.reach(COMMITS).await?;
    workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("without the fence: {} of {} comparisons different", total.different, total.compared);
    assert!(total.different > 0, "the control must fail: {total:?}");
    Ok(())
}
