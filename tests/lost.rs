//! A slot that is lost in any way, and a source that is not what it was: everything is compared and repaired, and nothing is lost.

use std::path::Path;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, cluster_with, connect, seed_from_environment};

use crate::harness::{PROJECTIONS, Program, Projector, Readers, Setup, assert_equal, shop, until};

/// Waits until nobody streams from the slot, and does something to it.
async fn with_slot(session: &Session, statement: &str) -> anyhow::Result<()> {
    session
        .batch_execute(&format!(
            "DO $$ BEGIN
               FOR i IN 1..1000 LOOP
                 BEGIN
                   PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
                   {statement};
                   RETURN;
                 EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.005);
                 END;
               END LOOP;
               RAISE 'the slot stayed in use';
             END $$"
        ))
        .await?;
    Ok(())
}

/// The versions of rows that nobody changes: a row that is rewritten has another.
async fn versions(target: &Session) -> anyhow::Result<String> {
    let row = target
        .query_one("SELECT string_agg(id || ':' || xmin::text, ',' ORDER BY id) FROM read_model.order_row WHERE id > 900000", &[])
        .await?;
    Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
}

const QUIET: &str = "INSERT INTO shop.orders (id, customer_id, status, amount, placed)
    SELECT n, NULL, 'quiet', n, '2024-01-01' FROM generate_series(900001, 900020) n";

async fn created(session: &Session) -> anyhow::Result<String> {
    Ok(session.query_one("SELECT slot_created_lsn::text FROM lockstep.installation", &[]).await?.get(0))
}

/// While the projector stands still somebody drops the slot, makes it anew, or moves it: a silent loss, if nobody looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_not_ours_is_noticed_at_the_start() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = shop(&setup.source_url).await?;
    session.batch_execute(QUIET).await?;
    for (round, meddling) in [
        "PERFORM pg_drop_replication_slot('lockstep')",
        "PERFORM pg_drop_replication_slot('lockstep'); PERFORM pg_create_logical_replication_slot('lockstep', 'pgoutput')",
        "PERFORM pg_replication_slot_advance('lockstep', pg_current_wal_insert_lsn())",
    ]
    .into_iter()
    .enumerate()
    {
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        projector.catch_up().await?;
        let before = versions(&session).await?;
        projector.stop().await?;
        let mut workload = Workload::start(&setup.source_url, 2, seed);
        workload.reach(40).await?;
        workload.finish().await?;
        with_slot(&session, meddling).await?;
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        projector.catch_up().await?;
        until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
        projector.catch_up().await?;
        assert_equal(&setup).await.map_err(|error| error.context(format!("seed {seed}, round {round}: {meddling}")))?;
        assert_eq!(versions(&session).await?, before, "what was right is not rewritten");
        projector.stop().await?;
    }
    // Left alone, it is ours.
    let before = created(&session).await?;
    session.batch_execute("UPDATE shop.orders SET amount = amount + 1 WHERE id < 10").await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    assert_eq!(created(&session).await?, before);
    Ok(())
}

/// The slot is dropped and made anew under the running projector, or invalidated for keeping too much WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_replaced_or_invalidated_under_load() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster_with(&["max_slot_wal_keep_size=8MB", "min_wal_size=32MB", "max_wal_size=32MB"])?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = shop(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    workload.reach(60).await?;
    let readers = Readers::start(&setup.source_url, "SELECT count(*) > 0 FROM read_model.order_row");
    with_slot(&session, "PERFORM pg_drop_replication_slot('lockstep')").await?;
    // Changes that no slot has seen; then somebody makes one of the same name, if the projector has not been quicker.
    session.batch_execute("UPDATE shop.orders SET amount = amount + 1 WHERE id % 7 = 0").await?;
    drop(session.batch_execute("SELECT pg_create_logical_replication_slot('lockstep', 'pgoutput')").await);
    workload.reach(workload.commits() + 60).await?;
    workload.finish().await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.catch_up().await?;
    assert!(readers.stop().await? > 10, "readers are served throughout");
    assert_equal(&setup).await?;
    projector.stop().await?;
    // Standing still while the source writes more than the slot may keep.
    session
        .batch_execute("CREATE TABLE shop.noise (t text); INSERT INTO shop.noise SELECT repeat(md5(n::text), 100) FROM generate_series(1, 20000) n")
        .await?;
    session.batch_execute("UPDATE shop.orders SET amount = amount + 1 WHERE id % 5 = 0").await?;
    for _ in 0..3 {
        session.batch_execute("SELECT pg_switch_wal()").await?;
        session.batch_execute("CHECKPOINT").await?;
    }
    until(&session, "SELECT wal_status = 'lost' FROM pg_replication_slots").await?;
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT wal_status <> 'lost' FROM pg_replication_slots").await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

/// Copies a directory with its owners.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status()?;
    anyhow::ensure!(status.success(), "copying {}", from.display());
    Ok(())
}

fn copied_without_slots(data: &Path) -> anyhow::Result<()> {
    for slot in std::fs::read_dir(data.join("pg_replslot"))? {
        std::fs::remove_dir_all(slot?.path())?;
    }
    Ok(())
}

/// The source is restored from an older base backup, with the target elsewhere: it is on the same timeline and behind, which nobody does
/// on purpose without saying so. Once it is accepted, what the source has forgotten goes from the read models.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_from_an_older_copy() -> anyhow::Result<()> {
    restored(None).await
}

/// It is restored to a point in time, which begins another timeline.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_to_a_point_in_time() -> anyhow::Result<()> {
    restored(Some("before_it")).await
}

/// As PostgreSQL wants it: the backup's directory, the WAL that was written since, and up to where.
fn recover_to(data: &Path, wal: &Path, point: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut settings = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"))?;
    writeln!(settings, "restore_command = 'cp {}/%f %p'", wal.display())?;
    writeln!(settings, "recovery_target_name = '{point}'\nrecovery_target_action = 'promote'")?;
    // Of the owner that the server runs as.
    let status =
        std::process::Command::new("cp").arg("-a").args([data.join("PG_VERSION"), data.join("recovery.signal")]).status()?;
    anyhow::ensure!(status.success(), "making recovery.signal");
    Ok(())
}

async fn restored(to: Option<&str>) -> anyhow::Result<()> {
    let mut source = cluster_with(&["full_page_writes=on"])?;
    let target = cluster()?;
    let mut setup = Setup::new(&source.url("postgres"), PROJECTIONS);
    setup.target_url = Some(target.url("postgres"));
    let session = shop(&setup.source_url).await?;
    session.batch_execute(QUIET).await?;
    let over_there = connect(setup.target_url()).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    drop(session);
    // A copy of the directory of a stopped server is a base backup.
    source.stop_server("fast")?;
    let backup = tempfile::tempdir()?;
    copy(&source.directory().join("data"), &backup.path().join("data"))?;
    // As pg_basebackup has it, without slots.
    copied_without_slots(&backup.path().join("data"))?;
    source.start_server()?;
    let session = connect(&setup.source_url).await?;
    projector.reconnect(&setup).await?;
    session
        .batch_execute("UPDATE shop.orders SET status = 'after the backup' WHERE id < 20; DELETE FROM shop.orders WHERE id = 30")
        .await?;
    if let Some(point) = to {
        session
            .batch_execute(&format!(
                "SELECT pg_create_restore_point('{point}'); UPDATE shop.orders SET status = 'forgotten' WHERE id = 4"
            ))
            .await?;
    }
    projector.catch_up().await?;
    until(&over_there, "SELECT status = 'after the backup' FROM read_model.order_row WHERE id = 3").await?;
    let before = versions(&over_there).await?;
    drop(session);
    source.stop_server("fast")?;
    let wal = source.directory().join("wal");
    copy(&source.directory().join("data/pg_wal"), &wal)?;
    std::fs::remove_dir_all(source.directory().join("data"))?;
    copy(&backup.path().join("data"), &source.directory().join("data"))?;
    if let Some(point) = to {
        recover_to(&source.directory().join("data"), &wal, point)?;
    }
    source.start_server()?;
    if to.is_none() {
        until(&over_there, "SELECT trouble LIKE '%restored from a backup%' FROM lockstep.installation").await?;
        let kept: bool =
            over_there.query_one("SELECT status = 'after the backup' FROM read_model.order_row WHERE id = 3", &[]).await?.get(0);
        assert!(kept, "it is not followed");
        let (exit, out, told) = Program::new(&setup)?.run(&["adopt"])?;
        assert!(exit == 0 && out.contains("restored from a backup"), "{out}{told}");
    }
    projector.reconnect(&setup).await?;
    let gone = if to.is_some() {
        "status <> 'forgotten' FROM read_model.order_row WHERE id = 4"
    } else {
        "status <> 'after the backup' FROM read_model.order_row WHERE id = 3"
    };
    until(&over_there, &format!("SELECT {gone}")).await?;
    let kept: bool =
        over_there.query_one("SELECT status = 'after the backup' FROM read_model.order_row WHERE id = 3", &[]).await?.get(0);
    assert_eq!(kept, to.is_some());
    until(&over_there, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.is_equal(&setup).await?;
    assert_eq!(versions(&over_there).await?, before, "what was right is not rewritten");
    projector.stop().await?;
    Ok(())
}
