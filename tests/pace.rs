//! Groups go at their own pace; each is exact, and the slot waits for the slowest.

use std::sync::Arc;

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, Workload, cluster, connect, seed_from_environment};

use crate::harness::{PROJECTIONS, Projector, Setup, assert_equal, shop};

#[tokio::test(flavor = "multi_thread")]
async fn two_groups_at_different_paces() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let mut projections: Vec<(&str, &str, &str)> = PROJECTIONS[..8].to_vec();
    for projection in &mut projections[4..] {
        projection.2 = "group = \"slow\"";
    }
    let mut setup = Setup::new(&cluster.url("postgres"), &projections);
    setup.preamble = "[[group]]\nname = \"slow\"\nlinger_ms = 300\n".to_owned();
    shop(&setup.source_url).await?;
    let oracle = Arc::new(Oracle::strict());
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    workload.reach(1_000).await?;
    workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    assert_eq!(oracle.total().different, 0);
    let session = connect(&setup.source_url).await?;
    let batches = |group: &'static str| {
        let session = &session;
        async move {
            let row = session.query_one("SELECT batches FROM lockstep.checkpoint WHERE group_name = $1", &[&group]).await?;
            anyhow::Ok(row.get::<_, i64>(0))
        }
    };
    let (fast, slow) = (batches("default").await?, batches("slow").await?);
    println!("{fast} batches of the fast group, {slow} of the slow one");
    assert!(fast > slow, "{fast} and {slow}");
    assert_equal(&setup).await
}
