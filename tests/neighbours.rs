//! Others in the same database: publications of all tables, listeners that hold the queue of notifications.

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Workload, cluster, cluster_with, connect, seed_from_environment};

use crate::harness::{PROJECTIONS, Program, Projector, Setup, assert_equal, catch_up, shop, until};

const ALL_TABLES: &str = "CREATE PUBLICATION everybody FOR ALL TABLES";

/// Our tables that somebody's publication of all tables would make read-only.
const LACKING: &str = "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('lockstep', 'read_model') AND c.relkind = 'r' AND c.relpersistence = 'p'
      AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)";

/// With a publication of all tables everything goes on as without: build, changes, a key in quarantine, another definition, a repair
/// of rows and of hidden state, the feed, teardown. Made from the start, and found after an upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_under_a_publication_of_all_tables() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    setup.preamble = "[feed]\n".to_owned();
    setup.projections.push((
        "ratios".to_owned(),
        "SELECT o.id, 100 / nullif(o.id - 7, 7) AS ratio FROM shop.orders o".to_owned(),
        String::new(),
    ));
    let session = shop(&setup.source_url).await?;
    session.batch_execute(ALL_TABLES).await?;
    let (exit, told, _) = Program::new(&setup)?.run(&["check"])?;
    assert_eq!(exit, 0, "{told}");
    assert!(told.contains("publication everybody publishes all tables"), "{told}");
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let mut workload = Workload::start(&setup.source_url, 2, seed);
    workload.reach(60).await?;
    workload.finish().await?;
    session.batch_execute("DELETE FROM shop.orders WHERE id = 7; INSERT INTO shop.orders (id, status, amount, placed) VALUES (7, 'new', 1, '2024-01-01')").await?;
    until(&session, "SELECT count(*) = 1 FROM lockstep.quarantine").await?;
    session.batch_execute("DELETE FROM shop.orders WHERE id = 7").await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) = 0 FROM lockstep.quarantine").await?;
    assert_equal(&setup).await.map_err(|error| error.context(format!("seed {seed}")))?;
    let lacking: i64 = session.query_one(LACKING, &[]).await?.get(0);
    assert_eq!(lacking, 0);
    // Rows and hidden state are spoilt by hand, and repaired.
    session.batch_execute("DELETE FROM read_model.statuses WHERE ctid IN (SELECT ctid FROM read_model.statuses LIMIT 3)").await?;
    let hidden: String = session
        .query_one("SELECT format('lockstep.%I', state_tables[1]) FROM lockstep.projection WHERE name = 'statuses'", &[])
        .await?
        .get(0);
    session.batch_execute(&format!("DELETE FROM {hidden} WHERE ctid IN (SELECT ctid FROM {hidden} LIMIT 3)")).await?;
    let program = Program::new(&setup)?;
    let (_, _, told) = tokio::task::block_in_place(|| program.run(&["repair", "statuses"]))?;
    let (exit, _, again) = tokio::task::block_in_place(|| program.run(&["verify"]))?;
    assert_eq!(exit, 0, "{told}\n{again}");
    projector.stop().await?;
    // As an earlier version left them.
    without_identities(&session).await?;
    session.batch_execute("UPDATE shop.orders SET status = 'other' WHERE id % 3 = 0").await?;
    setup.projections[9].1 = "SELECT o.status, o.placed, 1 AS one FROM shop.orders o".to_owned();
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT count(*) > 0 AND bool_and(one = 1) FROM read_model.statuses").await?;
    until(&session, "SELECT bool_and(state = 'live') AND bool_and(replaces IS NULL) FROM lockstep.projection").await?;
    projector.ends_equal(&setup).await?;
    let (exit, _, told) = Program::new(&setup)?.run(&["teardown", "--yes"])?;
    assert_eq!(exit, 0, "{told}");
    Ok(())
}

async fn without_identities(session: &Session) -> anyhow::Result<()> {
    let rows = session
        .query(
            "SELECT format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', c.oid::regclass) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname IN ('lockstep', 'read_model') AND c.relkind = 'r' AND c.relreplident = 'f'",
            &[],
        )
        .await?;
    assert!(!rows.is_empty());
    for row in &rows {
        session.batch_execute(row.get(0)).await?;
    }
    let lacking: i64 = session.query_one(LACKING, &[]).await?.get(0);
    assert!(lacking > 0, "that is what an upgrade finds");
    Ok(())
}

const FED: &[(&str, &str, &str)] = &[("items", "SELECT id, upper(name) AS name FROM item", "")];

/// Where PostgreSQL's queue of notifications is full, whatever the reason, batches go on, the table has everything, and listeners are
/// told again by itself when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_notifications_stops_no_batch() -> anyhow::Result<()> {
    // From 17 on the queue can be made small enough to be filled in earnest.
    let probe = cluster()?;
    let major: i32 = connect(&probe.url("postgres"))
        .await?
        .query_one("SELECT current_setting('server_version_num')::int / 10000", &[])
        .await?
        .get(0);
    drop(probe);
    let real = major >= 17;
    let cluster = if real { cluster_with(&["max_notify_queue_pages=64"])? } else { cluster()? };
    let mut setup = Setup::new(&cluster.url("postgres"), FED);
    setup.preamble = "[feed]\n".to_owned();
    let session = connect(&setup.source_url).await?;
    session.batch_execute("CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (0, 'zero')").await?;
    let holder = connect(&setup.source_url).await?;
    holder.batch_execute("LISTEN lockstep_items; LISTEN noise").await?;
    holder.batch_execute("BEGIN; SELECT 1").await?;
    if real {
        for _ in 0..200 {
            let noise = "SELECT pg_notify('noise', repeat('x', 7000) || n) FROM generate_series(1, 10) n";
            if session.batch_execute(noise).await.is_err() {
                break;
            }
        }
        let usage: f64 = session.query_one("SELECT pg_notification_queue_usage()", &[]).await?.get(0);
        assert!(usage > 0.5, "{usage}");
    }
    let program = Program::new(&setup)?;
    let mut child = program.start(if real { "" } else { "feed_queue=30*return->off" })?;
    catch_up(&setup).await?;
    session.batch_execute("INSERT INTO item VALUES (1, 'one')").await?;
    catch_up(&setup).await?;
    session.batch_execute("INSERT INTO item VALUES (2, 'two')").await?;
    catch_up(&setup).await?;
    until(&session, "SELECT count(*) = 3 FROM read_model.items").await?;
    until(&session, "SELECT sum(rows) >= 2 FROM lockstep.change").await?;
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while !program.log().contains("listeners are not notified for now") {
        assert!(tokio::time::Instant::now() < deadline, "{}", program.log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    assert!(program.log().contains(&format!("pid {pid} ")), "the one that holds the queue is named: {}", program.log());
    holder.batch_execute("COMMIT").await?;
    while !program.log().contains("listeners are notified again") {
        assert!(tokio::time::Instant::now() < deadline, "{}", program.log());
        holder.batch_execute("SELECT 1").await?;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_equal(&setup).await?;
    child.kill()?;
    child.wait()?;
    Ok(())
}
