//! What ends the stream again and again: a slot that is lost as soon as it is made, a row that no walsender can carry. It comes to an end by
//! itself or says what is missing, and is not tried for ever at the same pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, cluster_with, connect};

use crate::harness::{PATIENCE, Program, Projector, Setup, assert_equal, shop, until};

const ONE: &[(&str, &str, &str)] = &[("orders", "SELECT o.id, o.status FROM shop.orders o", "")];

async fn created(session: &Session) -> anyhow::Result<Option<String>> {
    Ok(session.query_one("SELECT slot_created_lsn::text FROM lockstep.installation", &[]).await?.get(0))
}

/// Somebody who writes much more WAL than a slot may keep, and lets the server clear it away.
struct Neighbour {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Neighbour {
    fn start(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url) = (stop.clone(), url.to_owned());
        let task = tokio::spawn(async move {
            let session = connect(&url).await?;
            while !stopped.load(Ordering::Relaxed) {
                session.batch_execute("SELECT pg_logical_emit_message(false, 'noise', repeat('x', 12000000))").await?;
                session.batch_execute("CHECKPOINT").await?;
            }
            Ok(())
        });
        Self { stop, task }
    }

    async fn finish(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// The statement that a message names.
fn statement(told: &str) -> &str {
    let from = told.find("ALTER SYSTEM SET max_slot_wal_keep_size").unwrap_or_else(|| panic!("{told}"));
    told[from..].split(';').next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_are_lost_again_and_again_are_made_at_growing_pauses() -> anyhow::Result<()> {
    let cluster = cluster_with(&["max_slot_wal_keep_size=32MB", "min_wal_size=32MB", "max_wal_size=32MB"])?;
    let setup = Setup::new(&cluster.url("postgres"), ONE);
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let neighbour = Neighbour::start(&setup.source_url);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut slots = std::collections::BTreeSet::new();
    let told = loop {
        slots.extend(created(&session).await?);
        let row = session.query_one("SELECT coalesce(trouble, '') FROM lockstep.installation", &[]).await?;
        let trouble: String = row.get(0);
        if trouble.contains("3 times in a row") {
            break trouble;
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{} slots, and nobody says so: {trouble}", slots.len());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(slots.len() <= 3, "{slots:?}");
    assert!(told.contains("max_slot_wal_keep_size (32MB)"), "{told}");
    let statement = statement(&told);
    // The commands say the same, with the slot lost.
    let (exit, _, errors) = program.run(&["check"])?;
    assert!(exit == 1 && errors.contains("max_slot_wal_keep_size (32MB)") && errors.contains("ALTER SYSTEM"), "{errors}");
    let (_, shown, _) = program.run(&["status"])?;
    assert!(shown.contains("stalled") && shown.contains("max_slot_wal_keep_size"), "{shown}");

    // What is named does it, at once, with the neighbour at work.
    session.batch_execute("UPDATE shop.orders SET status = 'meanwhile' WHERE id % 3 = 0").await?;
    session.batch_execute(statement).await?;
    session.batch_execute("SELECT pg_reload_conf()").await?;
    until(&session, "SELECT wal_status <> 'lost' AND active FROM pg_replication_slots").await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.catch_up().await?;
    neighbour.finish().await?;
    assert_equal(&setup).await?;
    assert!(!projector.ended());
    projector.stop().await?;
    Ok(())
}

/// 540 MB that are twice as long as text: more than a message may have.
const UNBEARABLE: &str = "UPDATE wide SET body = convert_to(repeat('x', 540000000), 'UTF8'), name = 'wide' WHERE id = 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_stream_cannot_carry_is_passed_by() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &[("wide_names", "SELECT w.id, w.name FROM wide w", "")]);
    let session = connect(&setup.source_url).await?;
    session
        .batch_execute(
            "CREATE TABLE wide (id int PRIMARY KEY, name text, body bytea); ALTER TABLE wide REPLICA IDENTITY FULL;
             INSERT INTO wide VALUES (1, 'one', ''), (2, 'two', '')",
        )
        .await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let (exit, shown, _) = program.run(&["check"])?;
    assert!(exit == 0 && shown.contains("ALTER TABLE public.wide REPLICA IDENTITY DEFAULT;"), "{shown}");
    let before = created(&session).await?;
    session.batch_execute(UNBEARABLE).await?;
    session.batch_execute("UPDATE wide SET name = 'behind it' WHERE id = 2").await?;
    until(&session, &format!("SELECT slot_created_lsn <> '{}' FROM lockstep.installation", before.unwrap_or_default())).await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.catch_up().await?;
    let once = created(&session).await?;
    assert_equal(&setup).await?;
    session.batch_execute("UPDATE wide SET name = 'again' WHERE id = 2").await?;
    projector.is_equal(&setup).await?;
    assert_eq!(created(&session).await?, once, "one new slot does it");
    projector.stop().await?;
    Ok(())
}

/// On request, whether a projector runs or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_slot_on_request() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), ONE);
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let mut former = created(&session).await?;
    // What the stream has not told is found by comparing.
    let wrong = "UPDATE read_model.orders SET status = 'wrong' WHERE id = 3";
    session.batch_execute(wrong).await?;
    let (exit, out, told) = program.run(&["repair", "--new-slot"])?;
    assert!(exit == 0 && out.contains("compared and repaired: 1"), "{out}{told}");
    assert_ne!(created(&session).await?, former);
    assert_equal(&setup).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    former = created(&session).await?;
    session.batch_execute(wrong).await?;
    let (exit, out, told) = program.run(&["repair", "--new-slot"])?;
    assert!(exit == 0 && told.contains("no projector runs"), "{out}{told}");
    assert_ne!(created(&session).await?, former);
    assert_equal(&setup).await?;
    let (exit, ..) = program.run(&["repair", "--new-slot", "orders"])?;
    assert_eq!(exit, 2, "it concerns everything");
    Ok(())
}
