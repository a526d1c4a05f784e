//! Whatever dies, wherever it dies: afterwards every projection equals its query, and nothing was copied twice for it.

use std::sync::Arc;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, Workload, cluster, connect, seed_from_environment};

use crate::harness::{PATIENCE, PROJECTIONS, Program, Projector, Setup, assert_equal, catch_up, shop, until};

/// The process dies at a fail point under load, is started again, and everything is equal.
async fn dies_at(failpoint: &str) -> anyhow::Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let workload = Workload::start(&setup.source_url, 3, seed);
    let mut child = program.start(failpoint)?;
    let status = program.ended(&mut child).await?;
    anyhow::ensure!(status.signal() == Some(6), "it was to abort at {failpoint}: {status:?}\n{}", program.log());
    let mut child = program.start("")?;
    let target = connect(setup.target_url()).await?;
    until(&target, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    workload.finish().await?;
    let result = match catch_up(&setup).await {
        Ok(()) => assert_equal(&setup).await,
        Err(error) => Err(error.context(program.log())),
    };
    child.kill()?;
    child.wait()?;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_the_build() -> anyhow::Result<()> {
    dies_at("build_page=4*off->return").await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_batch() -> anyhow::Result<()> {
    dies_at("batch_before_checkpoint=40*off->return").await
}

#[tokio::test(flavor = "multi_thread")]
async fn between_commit_and_feedback() -> anyhow::Result<()> {
    dies_at("batch_after_commit=40*off->return").await
}

/// Blocks, and what is followed from row to row.
const COMPOSED: &[(&str, &str)] = &[
    ("newest", "SELECT c.id, s.id AS newest FROM shop.customer c LEFT JOIN (SELECT o.customer_id, o.id,
        row_number() OVER (PARTITION BY o.customer_id ORDER BY o.placed DESC NULLS LAST, o.id) AS place FROM shop.orders o) s ON s.customer_id = c.id AND s.place = 1"),
    ("below", "WITH RECURSIVE t AS (SELECT e.id, e.id AS top, 0 AS depth FROM shop.employee e WHERE e.manager_id IS NULL
        UNION SELECT e.id, t.top, t.depth + 1 FROM shop.employee e JOIN t ON e.manager_id = t.id WHERE t.depth < 6) SELECT id, top, depth FROM t"),
    ("sizes", "WITH RECURSIVE t AS (SELECT e.id AS top, e.id FROM shop.employee e
        UNION SELECT t.top, e.id FROM shop.employee e JOIN t ON e.manager_id = t.id) SELECT top, count(*) AS n FROM t GROUP BY top"),
    ("dearest", "SELECT o.id, o.amount FROM shop.orders o ORDER BY o.amount DESC NULLS LAST, o.id LIMIT 10"),
    ("subtotals", "SELECT o.status, o.placed, count(*) AS n FROM shop.orders o GROUP BY ROLLUP (o.status, o.placed)"),
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    setup.projections.extend(COMPOSED.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned(), String::new())));
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    for round in 0..6_u64 {
        let mut child = program.start("")?;
        let before: i64 = match session.query_opt("SELECT sum(batches)::bigint FROM lockstep.checkpoint", &[]).await {
            Ok(Some(row)) => row.get::<_, Option<i64>>(0).unwrap_or(0),
            Ok(None) | Err(_) => 0,
        };
        let more = before + 1 + i64::try_from((seed >> (round * 8)) % 30)?;
        until(&session, &format!("SELECT sum(batches) >= {more} FROM lockstep.checkpoint"))
            .await
            .map_err(|e| e.context(program.log()))?;
        // Child::kill sends SIGKILL.
        child.kill()?;
        child.wait()?;
        workload.reach(workload.commits() + 50).await?;
    }
    workload.finish().await?;
    let mut child = program.start("")?;
    catch_up(&setup).await?;
    let result = assert_equal(&setup).await;
    child.kill()?;
    child.wait()?;
    result
}

/// The database goes down as in a power cut, twice, and comes back; the projector reconnects by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_crashes() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let mut cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    shop(&setup.source_url).await?;
    let oracle = Arc::new(Oracle::strict());
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for round in 0..2 {
        let mut workload = Workload::start(&setup.source_url, 3, seed + round);
        workload.reach(200).await?;
        cluster.stop_server("immediate")?;
        // Most writers lose their connections, as an application's do; one that is told to stop first ends well.
        drop(workload.finish().await);
        cluster.start_server()?;
    }
    let mut workload = Workload::start(&setup.source_url, 3, seed + 9);
    workload.reach(200).await?;
    workload.finish().await?;
    projector.reconnect(&setup).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    assert_eq!(oracle.total().different, 0);
    assert_equal(&setup).await
}

/// The target goes down and loses the batches that it had committed and not yet flushed: they are read again.
#[tokio::test(flavor = "multi_thread")]
async fn the_target_crashes() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let source = cluster()?;
    // A WAL writer that hardly ever writes: whatever is not flushed by somebody is lost.
    let mut target = lockstep_testkit::cluster_with(&["wal_writer_delay=10s", "wal_writer_flush_after=1GB", "fsync=on"])?;
    let mut setup = Setup::new(&source.url("postgres"), &PROJECTIONS[..8]);
    setup.target_url = Some(target.url("postgres"));
    shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for round in 0..3 {
        let mut workload = Workload::start(&setup.source_url, 3, seed + round);
        workload.reach(150).await?;
        workload.finish().await?;
        projector.catch_up().await?;
        // Two more status updates: by now a projector that confirms what is not durable has done so.
        let source = connect(&setup.source_url).await?;
        let now: String = source.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0);
        until(&source, &format!("SELECT reply_time > '{now}'::timestamptz + interval '1 second' FROM pg_stat_replication"))
            .await?;
        target.stop_server("immediate")?;
        target.start_server()?;
        projector.reconnect(&setup).await?;
        projector.is_equal(&setup).await?;
    }
    projector.stop().await?;
    Ok(())
}

/// What the feed has told is durable: a crash of the target does not take it back.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_been_told_outlives_a_crash() -> anyhow::Result<()> {
    let source = cluster()?;
    let mut target = lockstep_testkit::cluster_with(&["wal_writer_delay=10s", "wal_writer_flush_after=1GB", "fsync=on"])?;
    let mut setup = Setup::new(&source.url("postgres"), &PROJECTIONS[..1]);
    setup.target_url = Some(target.url("postgres"));
    setup.preamble = "[feed]\n".to_owned();
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for round in 0..3 {
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let listener = Session::open_listening(setup.config().target_settings(), "test", Some(sender)).await?;
        listener.batch_execute("LISTEN lockstep_order_row").await?;
        session.batch_execute(&format!("UPDATE shop.orders SET status = 'told {round}' WHERE id = 5")).await?;
        let notice = tokio::time::timeout(PATIENCE, told.recv()).await?.ok_or_else(|| anyhow::anyhow!("nothing was told"))?;
        target.stop_server("immediate")?;
        target.start_server()?;
        let notice: serde_json::Value = serde_json::from_str(notice.payload())?;
        let id = notice["id"].as_i64().unwrap_or_default();
        projector.reconnect(&setup).await?;
        let again = connect(setup.target_url()).await?;
        let kept = again
            .query_opt("SELECT FROM lockstep.change WHERE id = $1 AND projection = 'order_row' AND rows = 1", &[&id])
            .await?;
        anyhow::ensure!(kept.is_some(), "round {round}: {notice} is gone");
        projector.catch_up().await?;
    }
    projector.stop().await?;
    assert_equal(&setup).await
}
