//! Rows that come and go with the time, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, Workload, cluster, connect, seed_from_environment};

use crate::harness::{PATIENCE, Progress, Projector, Setup, shop, until};

const SCHEMA: &str = "CREATE SCHEMA app;
    CREATE TABLE app.item (id bigint PRIMARY KEY, owner integer, status text, at timestamptz, day date, local_at timestamp);
    CREATE INDEX ON app.item (at);
    CREATE INDEX ON app.item (owner);
    CREATE TABLE app.owner (id integer PRIMARY KEY, name text);
    INSERT INTO app.owner SELECT n, 'Owner ' || n FROM generate_series(1, 6) n;";

/// Every way to compare with the time, at a scale of seconds.
const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("recent", "SELECT i.id, i.status FROM app.item i WHERE i.at > now() - interval '2 seconds'", ""),
    ("upcoming", "SELECT i.id, i.at FROM app.item i WHERE i.at > CURRENT_TIMESTAMP", ""),
    (
        "between",
        "SELECT i.id FROM app.item i WHERE i.at BETWEEN now() - interval '3 seconds' AND now() + interval '1 second'",
        "",
    ),
    ("turned", "SELECT i.id FROM app.item i WHERE now() - interval '1 second' >= i.at", ""),
    (
        "flag",
        "SELECT i.id, i.at <= now() AS is_past, CASE WHEN i.at > now() - interval '1 second' THEN 'hot' ELSE 'cold' END AS heat FROM app.item i",
        "",
    ),
    (
        "local",
        "SELECT i.id FROM app.item i WHERE i.local_at > LOCALTIMESTAMP - interval '2 seconds'",
        "timezone = \"Asia/Tokyo\"",
    ),
    ("mixed", "SELECT i.id FROM app.item i WHERE i.local_at > now() - interval '2 seconds'", "timezone = \"Asia/Tokyo\""),
    ("dated", "SELECT i.id FROM app.item i WHERE i.day >= CURRENT_DATE", "timezone = \"Pacific/Kiritimati\""),
    (
        "counted",
        "SELECT i.status, count(*) AS n, count(*) FILTER (WHERE i.at > now() - interval '1 second') AS hot FROM app.item i WHERE i.at > now() - interval '3 seconds' GROUP BY i.status",
        "",
    ),
    ("flag_of_group", "SELECT i.at, i.at > now() AS ahead, count(*) AS n FROM app.item i GROUP BY i.at", ""),
    ("groups_ahead", "SELECT i.at, count(*) AS n FROM app.item i GROUP BY i.at HAVING i.at > now() - interval '1 second'", ""),
    (
        "of_owner",
        "SELECT o.id, o.name, (SELECT count(*) FROM app.item i WHERE i.owner = o.id AND i.at > now() - interval '2 seconds') AS recent FROM app.owner o",
        "",
    ),
    (
        "exists_recent",
        "SELECT o.id FROM app.owner o WHERE EXISTS (SELECT 1 FROM app.item i WHERE i.owner = o.id AND i.at > now())",
        "",
    ),
    (
        "grouped_recent",
        "SELECT o.id, r.n FROM app.owner o LEFT JOIN (SELECT owner, count(*) AS n FROM app.item WHERE at > now() - interval '2 seconds' GROUP BY owner) r ON r.owner = o.id",
        "",
    ),
    (
        "ranked",
        "SELECT i.owner, i.id, row_number() OVER (PARTITION BY i.owner ORDER BY i.id) AS n FROM app.item i WHERE i.at > now() - interval '2 seconds'",
        "",
    ),
];

fn insert(from: i32, seconds: &str) -> String {
    format!(
        "INSERT INTO app.item SELECT n, 1 + n % 6, 's' || n % 3, now() + ({seconds}) * interval '1 second', CURRENT_DATE + n % 3 - 1,
            (now() AT TIME ZONE 'Asia/Tokyo') + ({seconds}) * interval '1 second' FROM generate_series({from}, {from} + 59) n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_and_go_by_the_clock_alone() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    by_the_clock(&setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_and_go_by_the_clock_of_another_server() -> anyhow::Result<()> {
    let (source, target) = (cluster()?, cluster()?);
    let mut setup = Setup::new(&source.url("postgres"), PROJECTIONS);
    setup.target_url = Some(target.url("postgres"));
    by_the_clock(&setup).await
}

async fn by_the_clock(setup: &Setup) -> anyhow::Result<()> {
    let mut setup = setup.clone();
    "[time]\nresolution_ms = 50\n".clone_into(&mut setup.preamble);
    let source = connect(&setup.source_url).await?;
    source.batch_execute(SCHEMA).await?;
    source.batch_execute(&insert(1, "n % 30 / 5.0 - 2")).await?;
    let checked = preflight::run(&setup.config(), Depth::Plans).await;
    for planned in &checked.planned {
        assert!(planned.plan.is_incremental() && planned.plan.follows_clock(), "{}", planned.plan.projection);
    }
    let oracle = Arc::new(Oracle::strict());
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let target = connect(setup.target_url()).await?;
    // Nothing changes any more; what is upcoming gets recent, and what is recent goes.
    until(&target, "SELECT count(*) > 0 FROM read_model.recent").await?;
    until(&target, "SELECT NOT EXISTS (SELECT FROM read_model.upcoming) AND NOT EXISTS (SELECT FROM read_model.recent)").await?;
    until(&target, "SELECT sum(recent) = 0 FROM read_model.of_owner").await?;
    until(&target, "SELECT NOT EXISTS (SELECT FROM read_model.counted)").await?;
    // A row that is changed in the batch in which it expires, and rows while it sleeps.
    source.batch_execute(&insert(101, "n % 30 / 10.0 - 2")).await?;
    for _ in 0..20 {
        source.batch_execute("UPDATE app.item SET status = status || '!' WHERE id % 7 = 1").await?;
        projector.catch_up().await?;
    }
    projector.stop().await?;
    source.batch_execute(&insert(201, "n % 30 / 10.0 - 1")).await?;
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    until(&target, "SELECT NOT EXISTS (SELECT FROM read_model.recent)").await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("{} comparisons", total.compared);
    assert!(total.compared > 100 && total.different == 0, "{total:?}");
    Ok(())
}

/// A clock that was set back: the last batch was computed at a later time than now.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_backwards() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &PROJECTIONS[..1]);
    let source = connect(&setup.source_url).await?;
    source.batch_execute(SCHEMA).await?;
    source.batch_execute(&insert(1, "600")).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    // As if an hour from now had been the time: everything has expired.
    source
        .batch_execute("DELETE FROM read_model.recent; UPDATE lockstep.checkpoint SET clock = now() + interval '1 hour'")
        .await?;
    let oracle = Arc::new(Oracle::strict());
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    until(&source, "SELECT count(*) = 60 FROM read_model.recent").await?;
    projector.stop().await?;
    assert!(oracle.total().compared > 0);
    Ok(())
}

/// While nothing comes or goes, looking at the clock writes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_passing_of_time_alone_writes_nothing() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &PROJECTIONS[..1]);
    "[time]\nresolution_ms = 20\n".clone_into(&mut setup.preamble);
    let source = connect(&setup.source_url).await?;
    source.batch_execute(SCHEMA).await?;
    source.batch_execute(&insert(1, "600")).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let batches =
        || async { Ok::<i64, anyhow::Error>(source.query_one("SELECT batches FROM lockstep.checkpoint", &[]).await?.get(0)) };
    let looks = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes WHERE indexrelname = 'item_at_idx'";
    let before = batches().await?;
    let seen: i64 = source.query_one(looks, &[]).await?.get(0);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while source.query_one(looks, &[]).await?.get::<_, i64>(0) < seen + 20 {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "the clock is not looked at");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(batches().await?, before);
    projector.stop().await?;
    Ok(())
}

/// Writers at work while rows come and go.
#[tokio::test(flavor = "multi_thread")]
async fn writers_and_the_clock() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let mut setup = Setup::new(
        &cluster.url("postgres"),
        &[
            (
                "fresh_payments",
                "SELECT p.method, count(*) AS n, sum(p.amount) AS total FROM shop.payment p WHERE p.paid_at > now() - interval '2 seconds' GROUP BY p.method",
                "",
            ),
            (
                "orders_paid_lately",
                "SELECT o.id FROM shop.orders o WHERE EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id AND p.paid_at > now() - interval '1 second')",
                "",
            ),
        ],
    );
    "[time]\nresolution_ms = 20\n".clone_into(&mut setup.preamble);
    let source = shop(&setup.source_url).await?;
    source.batch_execute("UPDATE shop.payment SET paid_at = now() + (id % 60 - 10) * interval '0.1 seconds'").await?;
    let oracle = Arc::new(Oracle::strict());
    let mut workload = Workload::start(&setup.source_url, 2, seed);
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let mut progress = Progress::default();
    for round in 0.. {
        // A loaded machine has fewer batches of more transactions.
        if round >= 15 && oracle.total().compared > 50 {
            break;
        }
        progress.reached(oracle.total().compared)?;
        workload.reach(workload.commits() + 20).await?;
        source
            .batch_execute("UPDATE shop.payment SET paid_at = now() + (id % 60 - 10) * interval '0.05 seconds' WHERE id % 5 = 0")
            .await?;
    }
    workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("{} comparisons", total.compared);
    assert!(total.compared > 50 && total.different == 0, "{total:?}");
    Ok(())
}
