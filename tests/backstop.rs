//! The schedule behind the read models: materialized views that are refreshed, logged and compared, and full verifications.

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, connect, seed_from_environment};

use crate::harness::{PROJECTIONS, Program, Projector, Setup, shop, until};

fn setup(url: &str, backstop: &str) -> Setup {
    let mut setup = Setup::new(url, PROJECTIONS);
    setup.projections.push((
        "over".to_owned(),
        "SELECT s.status, s.n * 2 AS double FROM read_model.sales_by_status s".to_owned(),
        "group = \"default\"\nbackstop = true".to_owned(),
    ));
    setup.preamble = format!("[backstop]\n{backstop}\n");
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_refreshed_and_compared_under_load() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let mut setup = setup(&cluster.url("postgres"), "schedule = \"* * * * * *\"");
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE INDEX order_row_status ON order_row (status);\n")?;
    setup.projections[0].2 = format!("key = [\"id\"]\nindexes = \"{}\"", indexes.display());
    setup.projections[1].2 = "backstop = false".to_owned();
    let session = shop(&setup.source_url).await?;
    session
        .batch_execute("INSERT INTO shop.orders (id, customer_id, status, amount, placed) SELECT n, NULL, 'quiet', n, '2024-01-01' FROM generate_series(900001, 900005) n")
        .await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let mut workload = Workload::start(&setup.source_url, 2, seed);
    until(&session, "SELECT count(*) >= 2 FROM lockstep.mv_refresh_log WHERE success AND view = 'mv_order_row'").await?;
    // A row of a table without a key has no view; its projection is verified instead. What is switched off is left alone.
    until(&session, "SELECT count(*) > 0 FROM lockstep.verification WHERE projection = 'statuses' AND outcome = 'equal'").await?;
    let views: String = session
        .query_one(
            "SELECT string_agg(matviewname, ' ' ORDER BY matviewname) FROM pg_matviews WHERE schemaname = 'read_model'",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(
        views,
        "mv_customer_totals mv_everything mv_line_row mv_members mv_order_row mv_sales_by_region mv_sales_by_status mv_without_lines"
    );
    until(
        &session,
        "SELECT EXISTS (SELECT FROM pg_indexes WHERE tablename = 'mv_order_row' AND indexname = 'mv_order_row_status')",
    )
    .await?;
    // Suspects there are, under load; drift there is none.
    workload.reach(workload.commits() + 150).await?;
    let drift: i64 = session.query_one("SELECT coalesce(sum(drift), 0)::bigint FROM lockstep.mv_refresh_log", &[]).await?.get(0);
    let failed: Option<String> = session
        .query_one("SELECT string_agg(DISTINCT view || ': ' || error, '; ') FROM lockstep.mv_refresh_log", &[])
        .await?
        .get(0);
    assert_eq!((drift, failed), (0, None), "seed {seed}");
    // A row that is wrong is found and mended, and nothing else is called drift.
    session.batch_execute("UPDATE read_model.order_row SET status = 'wrong' WHERE id = 900001").await?;
    until(&session, "SELECT status = 'quiet' FROM read_model.order_row WHERE id = 900001").await?;
    until(&session, "SELECT sum(drift) = 1 FROM lockstep.mv_refresh_log").await?;
    workload.finish().await?;
    projector.ends_equal(&setup).await?;
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["teardown", "--yes"])?;
    assert_eq!(status, 0, "{output}{errors}");
    let left: i64 = session.query_one("SELECT count(*) FROM pg_matviews", &[]).await?.get(0);
    assert_eq!(left, 0);
    Ok(())
}

/// Views do not wait for their schedule to be made, and readers that are named later may read them.
#[tokio::test(flavor = "multi_thread")]
async fn views_stand_behind_their_projections_at_once() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = setup(&cluster.url("postgres"), "schedule = \"0 0 1 1 *\"");
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) = 9 FROM lockstep.mv_refresh_log WHERE success").await?;
    projector.stop().await?;
    session.batch_execute("CREATE ROLE late").await?;
    setup.preamble = format!("[target]\nreaders = [\"late\"]\n{}", setup.preamble);
    let order_row = setup.projections.iter_mut().find(|(name, ..)| name == "order_row");
    let query = order_row.map(|(_, query, _)| query).ok_or_else(|| anyhow::anyhow!("no order_row"))?;
    *query = query.replacen("SELECT ", "SELECT 7 AS seven, ", 1);
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    let granted =
        "SELECT bool_and(has_table_privilege('late', format('%I.%I', schemaname, matviewname), 'SELECT')) FROM pg_matviews";
    until(&session, granted).await?;
    until(
        &session,
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('read_model.mv_order_row') AND attname = 'seven')",
    )
    .await?;
    until(&session, granted).await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) = 2 FROM lockstep.mv_refresh_log WHERE view = 'mv_order_row'").await?;
    let others: i64 =
        session.query_one("SELECT count(*) FROM lockstep.mv_refresh_log WHERE view <> 'mv_order_row'", &[]).await?.get(0);
    assert_eq!(others, 8, "none is made more often than it must be");
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_fails_is_logged_and_tried_again() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = setup(&cluster.url("postgres"), "schedule = \"* * * * * *\"\nlock_timeout_s = 5");
    setup.projections.truncate(1);
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) > 0 FROM lockstep.mv_refresh_log WHERE success").await?;
    let locker = connect(&setup.source_url).await?;
    locker.batch_execute("BEGIN; REFRESH MATERIALIZED VIEW CONCURRENTLY read_model.mv_order_row").await?;
    until(&session, "SELECT count(*) > 0 FROM lockstep.mv_refresh_log WHERE NOT success AND error LIKE '%lock timeout%'").await?;
    // Readers of the view go on meanwhile, and so does the projection.
    session
        .batch_execute("SELECT count(*) FROM read_model.mv_order_row; UPDATE shop.orders SET status = 'now' WHERE id = 1")
        .await?;
    projector.catch_up().await?;
    locker.batch_execute("COMMIT").await?;
    until(&session, "SELECT success FROM lockstep.mv_refresh_log ORDER BY id DESC LIMIT 1").await?;
    // One of an older definition is made anew. However long that takes, readers have the old one.
    session.batch_execute("COMMENT ON MATERIALIZED VIEW read_model.mv_order_row IS 'lockstep backstop older'").await?;
    locker.batch_execute("BEGIN; LOCK TABLE shop.orders IN ACCESS EXCLUSIVE MODE").await?;
    let making =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%CREATE MATERIALIZED VIEW%')";
    until(&session, making).await?;
    session.batch_execute("SET statement_timeout = '10s'; SELECT count(*) FROM read_model.mv_order_row").await?;
    locker.batch_execute("COMMIT").await?;
    until(
        &session,
        "SELECT obj_description('read_model.mv_order_row'::regclass, 'pg_class') NOT IN ('lockstep backstop older', 'lockstep backstop unfinished')
            AND to_regclass('read_model.mv_order_row__new') IS NULL",
    )
    .await?;
    projector.stop().await?;
    Ok(())
}

/// With two databases the whole query is computed at a snapshot instead, on the same schedule; and everything is verified on its own.
#[tokio::test(flavor = "multi_thread")]
async fn with_two_databases_the_query_is_computed_instead() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin.batch_execute("CREATE DATABASE models").await?;
    let mut setup = setup(&cluster.url("postgres"), "schedule = \"* * * * * *\"\nverify = \"*/2 * * * * *\"");
    setup.target_url = Some(cluster.url("models"));
    let session = shop(&setup.source_url).await?;
    let target = connect(setup.target_url()).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    target.batch_execute("UPDATE read_model.order_row SET amount = -1 WHERE id = 3").await?;
    until(&target, "SELECT amount <> -1 FROM read_model.order_row WHERE id = 3").await?;
    until(&target, "SELECT count(*) = 1 FROM lockstep.verification WHERE projection = 'order_row' AND outcome = 'repaired' AND differing = 1 AND repaired = 1")
        .await?;
    drop(session);
    projector.stop().await?;
    Ok(())
}
