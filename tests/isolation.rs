//! One projection's trouble is its own: the others are kept up to date through every set-up, whatever another one waits for or lacks.

use std::process::Child;

use lockstep_connect::Session;
use lockstep_testkit::{cluster, cluster_with, connect};
use nix::sys::signal::Signal;

use crate::harness::{Program, Setup, assert_equal, catch_up, shop, signal, until};

const LIVE: &[(&str, &str, &str)] =
    &[("order_row", "SELECT o.id, o.status FROM shop.orders o", ""), ("regions", "SELECT r.code, r.name FROM shop.region r", "")];

/// Ends the program with the test.
struct Running {
    child: Child,
    program: Program,
}

impl Running {
    async fn start(setup: &Setup, session: &Session) -> anyhow::Result<Self> {
        let program = Program::new(setup)?;
        let child = program.start("")?;
        let running = Self { child, program };
        until(session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
        catch_up(setup).await?;
        Ok(running)
    }

    /// Gives it another configuration.
    fn reload(&self, setup: &Setup) -> anyhow::Result<()> {
        self.program.file("lockstep.toml", &setup.toml())?;
        signal(&self.child, Signal::SIGHUP)
    }

    fn stop(mut self) -> anyhow::Result<()> {
        signal(&self.child, Signal::SIGTERM)?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.code() == Some(0), "{status}: {}", self.program.log());
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, if all went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Changes a row and waits until it shows: that projection goes on.
async fn goes_on(session: &Session, status: &str) -> anyhow::Result<()> {
    session.batch_execute(&format!("UPDATE shop.orders SET status = '{status}' WHERE id = 1")).await?;
    until(session, &format!("SELECT status = '{status}' FROM read_model.order_row WHERE id = 1"))
        .await
        .map_err(|error| error.context(format!("the others do not go on: {status}")))
}

/// How many streams were opened: it stays one while it is set up in place.
fn streams(program: &Program) -> usize {
    program.log().matches("streaming").count()
}

/// A projection that is added while an old transaction is open, or prepared, waits for it alone, and says for which.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_waits_alone_for_old_transactions() -> anyhow::Result<()> {
    let cluster = cluster_with(&["max_prepared_transactions=5"])?;
    let mut setup = Setup::new(&cluster.url("postgres"), LIVE);
    let session = shop(&setup.source_url).await?;
    let running = Running::start(&setup, &session).await?;
    let old = connect(&setup.source_url).await?;
    old.batch_execute("BEGIN; UPDATE shop.customer SET \"fullName\" = 'unseen' WHERE id = 1").await?;
    session
        .batch_execute(
            "BEGIN; UPDATE shop.customer SET \"fullName\" = 'prepared' WHERE id = 2; PREPARE TRANSACTION 'left behind'",
        )
        .await?;
    let pid: i32 = old.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    setup.projections.push((
        "customers".to_owned(),
        "SELECT c.id, c.\"fullName\" AS name FROM shop.customer c".to_owned(),
        String::new(),
    ));
    running.reload(&setup)?;
    until(
        &session,
        &format!(
            "SELECT reason LIKE '%pid {pid} %' AND reason LIKE '%left behind%' FROM lockstep.projection WHERE name = 'customers'"
        ),
    )
    .await?;
    for number in 0..3 {
        goes_on(&session, &format!("while it waits {number}")).await?;
    }
    until(&session, "SELECT lockstep.wait_for(pg_current_wal_insert_lsn(), '1 second', 'order_row')").await?;
    let (_, status, _) = running.program.run(&["status"])?;
    assert!(status.contains("left behind"), "{status}");
    let built: i64 = session.query_one("SELECT count(*) FROM read_model.customers", &[]).await?.get(0);
    assert_eq!(built, 0, "it has not begun");
    old.batch_execute("COMMIT").await?;
    session.batch_execute("COMMIT PREPARED 'left behind'").await?;
    until(&session, "SELECT state = 'live' AND reason IS NULL FROM lockstep.projection WHERE name = 'customers'").await?;
    catch_up(&setup).await?;
    assert_equal(&setup).await?;
    assert_eq!(streams(&running.program), 1, "one stream throughout: {}", running.program.log());
    running.stop()
}

/// One projection is faulted by a dropped column; then another's definition changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_faulted_projection_keeps_no_other_from_changing() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), LIVE);
    setup.projections.push(("tiers".to_owned(), "SELECT c.id, c.tier FROM shop.customer c".to_owned(), String::new()));
    let session = shop(&setup.source_url).await?;
    let running = Running::start(&setup, &session).await?;
    session.batch_execute("ALTER TABLE shop.customer DROP COLUMN tier CASCADE").await?;
    until(&session, "SELECT state = 'faulted' FROM lockstep.projection WHERE name = 'tiers'").await?;
    goes_on(&session, "beside a fault").await?;
    setup.projections[1].1 = "SELECT r.code, r.name, upper(r.name) AS loud FROM shop.region r".to_owned();
    running.reload(&setup)?;
    until(&session, "SELECT count(*) > 0 FROM read_model.regions WHERE loud = upper(name)").await?;
    goes_on(&session, "after the change").await?;
    let log = running.program.log();
    assert_eq!(streams(&running.program), 1, "one stream throughout: {log}");
    running.stop()?;
    // So it is after a restart.
    let program = Program::new(&setup)?;
    let again = Running { child: program.start("")?, program };
    goes_on(&session, "after a restart").await?;
    session.batch_execute("ALTER TABLE shop.customer ADD COLUMN tier integer NOT NULL DEFAULT 3").await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    catch_up(&setup).await?;
    assert_equal(&setup).await?;
    again.stop()
}

/// A table is made anew without its grant and outside the publication, and a reader is dropped: only what reads the table is set aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_grant_concerns_its_readers_only() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let owner = cluster.url("postgres");
    let session = shop(&owner).await?;
    session
        .batch_execute(
            "CREATE ROLE projector LOGIN REPLICATION; CREATE ROLE shop_api; CREATE ROLE other_api;
             GRANT USAGE ON SCHEMA shop TO projector; GRANT SELECT ON ALL TABLES IN SCHEMA shop TO projector;
             CREATE SCHEMA lockstep AUTHORIZATION projector; CREATE SCHEMA read_model AUTHORIZATION projector;
             CREATE PUBLICATION lockstep FOR TABLE shop.orders (id), shop.region (code) WITH (publish_via_partition_root = true)",
        )
        .await?;
    let mut setup = Setup::new(&owner.replace("postgres@", "projector@"), LIVE);
    assert!(setup.source_url.contains("projector@"), "{}", setup.source_url);
    setup.preamble = "[target]\nreaders = [\"shop_api\", \"other_api\"]\n".to_owned();
    let running = Running::start(&setup, &session).await?;
    session
        .batch_execute(
            "DROP OWNED BY other_api; DROP ROLE other_api;
             BEGIN; CREATE TABLE shop.region_2 (LIKE shop.region INCLUDING ALL); INSERT INTO shop.region_2 SELECT * FROM shop.region;
             DROP TABLE shop.region CASCADE; ALTER TABLE shop.region_2 RENAME TO region; COMMIT",
        )
        .await?;
    until(&session, "SELECT state = 'faulted' AND reason LIKE '%shop.region%' FROM lockstep.projection WHERE name = 'regions'")
        .await?;
    goes_on(&session, "beside a table without its grant").await?;
    let rows: i64 = session.query_one("SELECT count(*) FROM read_model.regions", &[]).await?.get(0);
    assert!(rows > 0, "its last good rows stay");
    assert_eq!(streams(&running.program), 1, "one stream throughout: {}", running.program.log());
    session
        .batch_execute(
            "GRANT SELECT ON shop.region TO projector; ALTER PUBLICATION lockstep ADD TABLE shop.region (code);
             UPDATE shop.region SET name = 'new' WHERE code = (SELECT min(code) FROM shop.region)",
        )
        .await?;
    signal(&running.child, Signal::SIGHUP)?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    catch_up(&setup).await?;
    setup.source_url.clone_from(&owner);
    assert_equal(&setup).await?;
    running.stop()
}

/// A verification that a set-up cuts off is made again: whoever asked for it gets its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_is_cut_off_is_made_again() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), LIVE);
    let session = shop(&setup.source_url).await?;
    let running = Running::start(&setup, &session).await?;
    // As it is when it was taken and the set-up came before its end.
    session
        .batch_execute(
            "INSERT INTO lockstep.request (kind, arguments, taken_at) VALUES ('verify', '{\"names\": []}', clock_timestamp());
             INSERT INTO lockstep.verification (request, projection) SELECT max(id), 'regions' FROM lockstep.request",
        )
        .await?;
    setup.projections.push(("more".to_owned(), "SELECT o.id FROM shop.orders o".to_owned(), String::new()));
    running.reload(&setup)?;
    until(&session, "SELECT bool_and(done_at IS NOT NULL AND error IS NULL) FROM lockstep.request").await?;
    let outcomes: String = session
        .query_one("SELECT string_agg(projection || ' ' || outcome, ', ' ORDER BY projection) FROM lockstep.verification", &[])
        .await?
        .get(0);
    assert!(outcomes.starts_with("more ") && outcomes.ends_with("order_row equal, regions equal"), "{outcomes}");
    running.stop()
}

/// A first start waits for old transactions, and says for which; stopped meanwhile it leaves no slot behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_leaves_no_slot() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), LIVE);
    let session = shop(&setup.source_url).await?;
    let old = connect(&setup.source_url).await?;
    old.batch_execute("BEGIN; UPDATE shop.region SET name = 'old'").await?;
    let pid: i32 = old.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let program = Program::new(&setup)?;
    let running = Running { child: program.start("")?, program };
    until(&session, &format!("SELECT trouble LIKE '%pid {pid} %' FROM lockstep.installation")).await?;
    running.stop()?;
    until(&session, "SELECT count(*) = 0 FROM pg_replication_slots").await?;
    until(&session, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'lockstep%' AND application_name <> 'lockstep test'").await?;
    old.batch_execute("COMMIT").await?;
    let running = Running::start(&setup, &session).await?;
    assert_equal(&setup).await?;
    running.stop()
}

/// Nothing is live while nothing flows: the source is away, or the projector was killed; and it says so wherever one looks.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_live_while_nothing_flows() -> anyhow::Result<()> {
    let (mut source, target) = (cluster()?, cluster()?);
    let mut setup = Setup::new(&source.url("postgres"), LIVE);
    setup.target_url = Some(target.url("postgres"));
    drop(shop(&setup.source_url).await?);
    let session = connect(setup.target_url()).await?;
    let mut running = Running::start(&setup, &session).await?;
    let state = |state: &str, reason: &str| {
        format!("SELECT bool_and(state = '{state}' AND coalesce(reason, '') LIKE '%{reason}%') FROM lockstep.status")
    };
    until(&session, &state("live", "")).await?;
    source.stop_server("immediate")?;
    until(&session, &state("stalled", "stream")).await?;
    let recorded: bool = session.query_one("SELECT bool_and(state = 'live') FROM lockstep.projection", &[]).await?.get(0);
    assert!(recorded, "what is recorded of the rows stays");
    let (status, output, _) = running.program.run(&["status"])?;
    assert_eq!((status, output.contains("stalled"), output.contains(" live ")), (1, true, false), "{output}");
    source.start_server()?;
    until(&session, &state("live", "")).await?;
    catch_up(&setup).await?;
    running.child.kill()?;
    running.child.wait()?;
    until(&session, &state("stalled", "has not been heard of")).await?;
    assert_eq!(running.program.run(&["status"])?.0, 1);
    let running = Running::start(&setup, &session).await?;
    until(&session, &state("live", "")).await?;
    let program = Program::new(&setup)?;
    running.stop()?;
    let (status, output, _) = program.run(&["status"])?;
    assert_eq!((status, output.contains("No projector runs")), (0, true), "{output}");
    assert_equal(&setup).await
}
