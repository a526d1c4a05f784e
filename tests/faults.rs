//! Faults of one projection, lost connections, lost slots.

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, seed_from_environment};

use crate::harness::{Followed, PROJECTIONS, Projector, Setup, assert_equal, shop, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_fails_is_set_aside_alone_and_comes_back() -> anyhow::Result<()> {
    let Followed { cluster: _cluster, setup, session, projector } = Followed::shop(&[
        ("good", "SELECT o.id, o.status FROM shop.orders o", ""),
        ("cast", "SELECT o.id, (o.extra ->> 'n')::integer AS n FROM shop.orders o", "on_error = \"halt\""),
        ("ratio", "SELECT o.status, sum(o.amount) / (count(*) - 1000) AS ratio FROM shop.orders o GROUP BY o.status", ""),
    ])
    .await?;
    session
        .batch_execute(
            "UPDATE shop.orders SET extra = '{\"n\": \"abc\"}' WHERE id = 3; UPDATE shop.orders SET status = 'gone' WHERE id = 4",
        )
        .await?;
    until(
        &session,
        "SELECT state = 'faulted' AND sqlstate = '22P02' AND hint IS NOT NULL FROM lockstep.projection WHERE name = 'cast'",
    )
    .await?;
    until(&session, "SELECT status = 'gone' FROM read_model.good WHERE id = 4").await?;
    let others: i64 = session.query_one("SELECT count(*) FROM lockstep.projection WHERE state = 'live'", &[]).await?.get(0);
    assert_eq!(others, 2, "the others go on");
    // Changes while it is set aside are made good when it comes back.
    session
        .batch_execute("DELETE FROM shop.orders WHERE id = 10; UPDATE shop.orders SET extra = '{\"n\": 99}' WHERE id = 3")
        .await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection WHERE name = 'cast'").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_column_faults_the_projections_that_use_it() -> anyhow::Result<()> {
    let Followed { cluster: _cluster, setup: _, session, projector } = Followed::shop(&[
        ("with_note", "SELECT o.id, o.extra FROM shop.orders o", ""),
        ("without", "SELECT o.id, o.amount FROM shop.orders o", ""),
    ])
    .await?;
    session.batch_execute("ALTER TABLE shop.orders DROP COLUMN extra; UPDATE shop.orders SET amount = 1 WHERE id = 1").await?;
    until(&session, "SELECT state = 'faulted' AND sqlstate = '42703' FROM lockstep.projection WHERE name = 'with_note'").await?;
    until(&session, "SELECT amount = 1 FROM read_model.without WHERE id = 1").await?;
    // The session that holds the writer's lock is lost, and everything is set up again: the good projection must not suffer.
    let epoch: i64 = session.query_one("SELECT leader_epoch FROM lockstep.installation", &[]).await?.get(0);
    session.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lockstep'").await?;
    until(&session, &format!("SELECT leader_epoch > {epoch} FROM lockstep.installation")).await?;
    session.batch_execute("UPDATE shop.orders SET amount = 2 WHERE id = 1").await?;
    until(&session, "SELECT amount = 2 FROM read_model.without WHERE id = 1").await?;
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_swap_a_unique_value() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[("named", "SELECT r.code, r.name FROM shop.region r", "")]);
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE UNIQUE INDEX ON named (name);\n")?;
    setup.projections[0].2 = format!("indexes = \"{}\"", indexes.display());
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session
        .batch_execute(
            "UPDATE shop.region SET name = CASE code WHEN 'r1' THEN 'Region 2' WHEN 'r2' THEN 'Region 1' ELSE name END WHERE code IN ('r1', 'r2')",
        )
        .await?;
    projector.catch_up().await?;
    until(&session, "SELECT name = 'Region 2' FROM read_model.named WHERE code = 'r1'").await?;
    assert_equal(&setup).await?;
    let state: String = session.query_one("SELECT state FROM lockstep.projection", &[]).await?.get(0);
    assert_eq!(state, "live");
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_cut_under_load() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let Followed { cluster: _cluster, setup, session, projector } = Followed::shop(PROJECTIONS).await?;
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    for _ in 0..8 {
        workload.reach(workload.commits() + 60).await?;
        session
            .batch_execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name LIKE 'lockstep%' AND application_name <> 'lockstep test' AND application_name <> 'lockstep'",
            )
            .await?;
    }
    workload.finish().await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_is_made_anew_and_everything_repaired() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let Followed { cluster: _cluster, setup, session, projector } = Followed::shop(PROJECTIONS).await?;
    let created: String = session.query_one("SELECT slot_created_lsn::text FROM lockstep.installation", &[]).await?.get(0);
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    workload.reach(100).await?;
    // The slot can be dropped only in the moment in which nobody streams from it.
    until(
        &session,
        "SELECT (SELECT bool_and(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE active) IS NOT NULL",
    )
    .await?;
    session
        .batch_execute(
            "DO $$ BEGIN
               FOR i IN 1..1000 LOOP
                 BEGIN
                   PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
                   PERFORM pg_drop_replication_slot('lockstep');
                   RETURN;
                 EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.005);
                 END;
               END LOOP;
               RAISE 'the slot stayed in use';
             END $$",
        )
        .await?;
    workload.reach(workload.commits() + 100).await?;
    workload.finish().await?;
    until(&session, &format!("SELECT slot_created_lsn > '{created}'::pg_lsn FROM lockstep.installation")).await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}
