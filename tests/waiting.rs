//! Waiting for positions: nobody who waits keeps a set-up or an upgrade waiting, and none of those keeps readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockstep::{Exit, commands};
use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{PATIENCE, Program, Projector, Readers, Setup, assert_equal, until};
use crate::upgrade::install_earlier;

/// Starts in an ordinary run; `LOCKSTEP_STARTS` asks for more.
const STARTS: u32 = 8;

/// How long nobody may stand behind a lock.
const MOMENT: &str = "1 second";

const PROJECTION: &[(&str, &str, &str)] = &[("items", "SELECT id, upper(name) AS name FROM item", "")];

const ITEMS: &str =
    "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 50) n";

/// Looks all the time for somebody who stands behind a lock on a table for longer than a moment.
struct Watcher {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Watcher {
    async fn start(url: &str) -> anyhow::Result<Self> {
        let session = connect(url).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let standing = format!(
                "SELECT coalesce(string_agg(format('%s (%s, %s): %s', l.relation::regclass, l.mode, a.application_name, a.query), E'\\n'), '')
                 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                 WHERE NOT l.granted AND l.locktype = 'relation' AND l.waitstart < clock_timestamp() - interval '{MOMENT}'"
            );
            while !stopped.load(Ordering::Relaxed) {
                let found: String = session.query_one(&standing, &[]).await?.get(0);
                anyhow::ensure!(found.is_empty(), "stood for more than {MOMENT}: {found}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
        Ok(Self { stop, task })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Services that call the function all the time, as the earlier version has it too.
fn services(url: &str, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<anyhow::Result<()>>> {
    let one = |timeout: &'static str| {
        let (url, stop) = (url.to_owned(), stop.clone());
        tokio::spawn(async move {
            let session = connect(&url).await?;
            while !stop.load(Ordering::Relaxed) {
                // While the functions are made anew one may be missing for a moment.
                drop(session.query(&format!("SELECT lockstep.wait_for('FFFFFFFF/0', interval '{timeout}')"), &[]).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        })
    };
    vec![one("2 seconds"), one("300 milliseconds"), one("30 milliseconds")]
}

/// A projector, and those who wait for it, start at the same moment; on an empty database and on one of an earlier version.
#[tokio::test(flavor = "multi_thread")]
async fn starts_and_upgrades_with_waiters_stand_for_no_more_than_a_moment() -> anyhow::Result<()> {
    let starts = std::env::var("LOCKSTEP_STARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS);
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    for round in 0..starts {
        let database = format!("start_{round}");
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        let setup = Setup::new(&cluster.url(&database), PROJECTION);
        let session = connect(&setup.source_url).await?;
        session.batch_execute(ITEMS).await?;
        // Of the migrations that follow, the fourth alters what those of the first three wait with.
        let earlier = [0, 0, 3, 7][round as usize % 4];
        let stop = Arc::new(AtomicBool::new(false));
        let mut calling = Vec::new();
        if earlier > 0 {
            install_earlier(&session, earlier).await?;
            calling = services(&setup.source_url, &stop);
        }
        let watcher = Watcher::start(&setup.source_url).await?;
        let config = setup.config();
        let waiter = || {
            let config = config.clone();
            tokio::spawn(async move { commands::wait(&config, None, PATIENCE, true).await })
        };
        let waiters = [waiter(), waiter(), waiter()];
        let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        for waiter in waiters {
            assert_eq!(waiter.await??, Exit::Good, "round {round}");
        }
        projector.catch_up().await?;
        watcher.stop().await.map_err(|error| error.context(format!("round {round}, after version {earlier}")))?;
        stop.store(true, Ordering::Relaxed);
        for service in calling {
            service.await??;
        }
        assert_equal(&setup).await?;
        projector.stop().await?;
        let (exit, _, told) = Program::new(&setup)?.run(&["teardown", "--yes"])?;
        assert_eq!(exit, 0, "{told}");
        drop(session);
        admin.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await?;
    }
    Ok(())
}

async fn waits(session: &Session, calls: &str) -> anyhow::Result<()> {
    until(
        session,
        &format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '{calls}%' AND wait_event = 'PgSleep' AND state = 'active')"),
    )
    .await
}

/// The tables can be altered at once under somebody who waits for long, and whoever is cancelled leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_holds_nothing_meanwhile() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTION);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let ways = [
        "SELECT lockstep.wait_for('FFFFFFFF/0', '1 minute')",
        "SELECT lockstep.wait_for('FFFFFFFF/0', '1 minute', 'items')",
        "SELECT lockstep.contained_beyond('FFFFFFFF/0', '1 minute', 'items')",
        "CALL lockstep.await('FFFFFFFF/0', '1 minute')",
    ];
    for (round, way) in ways.into_iter().enumerate() {
        let waiter = connect(&setup.source_url).await?;
        let pid: i32 = waiter.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let waiting = async { waiter.batch_execute(way).await };
        let meanwhile = async {
            let begins: String = way.chars().take(20).collect();
            waits(&session, &begins).await?;
            session
                .batch_execute(&format!(
                    "SET lock_timeout = '500ms'; ALTER TABLE lockstep.checkpoint ADD COLUMN added_{round} int;
                     ALTER TABLE lockstep.projection ADD COLUMN added_{round} int"
                ))
                .await
                .map_err(|error| anyhow::anyhow!("{way}: {}", lockstep_connect::describe(&error)))?;
            waits(&session, &begins).await?;
            session.execute("SELECT pg_cancel_backend($1)", &[&pid]).await?;
            anyhow::Ok(())
        };
        let (waited, altered) = tokio::join!(waiting, meanwhile);
        altered?;
        assert_eq!(waited.unwrap_err().code().map(tokio_postgres::error::SqlState::code), Some("57014"), "{way}");
        let left: i64 = session
            .query_one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()", &[])
            .await?
            .get(0);
        assert_eq!(left, 0, "a cancelled waiter still counts as one: {way}");
    }
    Ok(())
}

/// A procedure that waits keeps no snapshot, so VACUUM may remove what was deleted after it began.
#[tokio::test(flavor = "multi_thread")]
async fn the_procedure_waits_without_a_snapshot() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTION);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let waiter = connect(&setup.source_url).await?;
    let waiting = async { waiter.query_one("CALL lockstep.await('FFFFFFFF/0', '2 minutes')", &[]).await };
    let meanwhile = async {
        waits(&session, "CALL lockstep.await").await?;
        let pid: i32 =
            session.query_one("SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL lockstep.await%'", &[]).await?.get(0);
        session.batch_execute("DELETE FROM item").await?;
        let after: String = session.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]).await?.get(0);
        let moved = format!(
            "SELECT backend_xmin IS NULL OR age(backend_xmin) <= age('{after}'::xid) FROM pg_stat_activity WHERE pid = {pid}"
        );
        until(&session, &moved).await?;
        session.execute("SELECT pg_terminate_backend($1)", &[&pid]).await?;
        anyhow::Ok(())
    };
    let (ended, looked) = tokio::join!(waiting, meanwhile);
    looked?;
    assert!(ended.is_err(), "it was ended");
    // One that succeeds says so.
    session.batch_execute("INSERT INTO item VALUES (1, 'again')").await?;
    let lsn: String = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    let row = session.query_one(&format!("CALL lockstep.await('{lsn}')"), &[]).await?;
    assert!(row.get::<_, bool>(0));
    projector.ends_equal(&setup).await?;
    Ok(())
}

/// Keeps a reader's lock on a table until somebody has tried, in several turns, to take it from him.
async fn read_until_turns_were_taken(url: &str, table: &str) -> anyhow::Result<()> {
    let (reader, looker) = (connect(url).await?, connect(url).await?);
    reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM {table}")).await?;
    let oid: u32 = looker.query_one(&format!("SELECT '{table}'::regclass::oid"), &[]).await?.get(0);
    let stands = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1 AND mode = 'AccessExclusiveLock' AND NOT granted)";
    let (mut turns, mut stood) = (0, false);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while turns < 3 {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "nobody wanted {table}");
        let now: bool = looker.query_one(stands, &[&oid]).await?.get(0);
        turns += u32::from(now && !stood);
        stood = now;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reader.batch_execute("COMMIT").await?;
    Ok(())
}

/// Swapping a new version in, dropping what is no longer wanted, and teardown, each while somebody reads in a long transaction: the
/// others go on reading.
#[tokio::test(flavor = "multi_thread")]
async fn readers_behind_one_who_reads_long_are_kept_for_no_more_than_a_moment() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let projections = [PROJECTION[0], ("others", "SELECT id, lower(name) AS name FROM item", "")];
    let mut setup = Setup::new(&cluster.url("postgres"), &projections);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let url = setup.source_url.clone();
    let watcher = Watcher::start(&url).await?;
    let mut readers = Readers::start(&url, "SELECT count(*) > 0 FROM read_model.items");

    setup.projections[0].1 = "SELECT id, upper(name) || '!' AS name FROM item".to_owned();
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    read_until_turns_were_taken(&url, "read_model.items").await.map_err(|error| error.context("swap"))?;
    until(&session, "SELECT bool_and(name LIKE '%!') FROM read_model.items").await?;
    until(&session, "SELECT bool_and(state = 'live') AND count(*) = 2 FROM lockstep.projection").await?;
    projector.catch_up().await?;
    projector.stop().await?;

    setup.projections.truncate(1);
    let program = Program::new(&setup)?;
    let mut run = program.command(&["run", "--once", "--prune"]).spawn()?;
    read_until_turns_were_taken(&url, "read_model.others").await.map_err(|error| error.context("prune"))?;
    assert!(run.wait()?.success());
    assert_equal(&setup).await?;
    let gone: bool = session.query_one("SELECT to_regclass('read_model.others') IS NULL", &[]).await?.get(0);
    assert!(gone, "it is dropped when its reader lets go");

    assert!(readers.stop().await? > 0);
    readers = Readers::start(&url, "SELECT count(*) >= 0 FROM lockstep.checkpoint");
    let mut teardown = program.command(&["teardown", "--yes", "--keep-tables"]).spawn()?;
    let kept = read_until_turns_were_taken(&url, "lockstep.checkpoint").await;
    kept.map_err(|error| error.context("teardown"))?;
    assert!(teardown.wait()?.success());
    // Whoever reads what is gone is told so; nobody stood for it.
    assert!(readers.stop().await.is_err());
    watcher.stop().await
}
