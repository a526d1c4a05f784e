//! A database that somebody has made read-only by default: nothing of ours writes, it is said, and it goes on when that is over.

use std::net::SocketAddr;
use std::process::Child;

use lockstep_connect::Session;
use lockstep_testkit::cluster;

use crate::harness::{PATIENCE, Program, Setup, assert_equal, catch_up, shop, until};
use crate::http::get;

const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("order_row", "SELECT o.id, o.status FROM shop.orders o", ""),
    ("by_status", "SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status", ""),
];

/// A brake: how it is put on and taken off, and how that is told.
struct Brake {
    on: &'static str,
    off: &'static str,
    told: &'static str,
    remedy: &'static str,
}

const BRAKES: &[Brake] = &[
    // Sessions that are open keep what they have: whoever means them ends them.
    Brake {
        on: "ALTER DATABASE postgres SET default_transaction_read_only = on;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'lockstep%' AND application_name <> 'lockstep test'",
        off: "ALTER DATABASE postgres RESET default_transaction_read_only",
        told: "read-only by default_transaction_read_only (set for the database)",
        remedy: "ALTER DATABASE postgres RESET default_transaction_read_only;",
    },
    Brake {
        on: "ALTER SYSTEM SET default_transaction_read_only = on",
        off: "ALTER SYSTEM RESET default_transaction_read_only",
        told: "read-only by default_transaction_read_only (set for the server)",
        remedy: "ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();",
    },
];

/// Ends the program with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until the probe answers this, with something in it.
async fn ready(address: SocketAddr, status: u16, saying: &str) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = get(address, "/readyz").await?;
        if answer.status == status && answer.body.contains(saying) {
            return Ok(());
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "not {status} {saying}: {} {}", answer.status, answer.body);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn obeys(session: &Session, setup: &Setup, program: &Program, address: SocketAddr, brake: &Brake) -> anyhow::Result<()> {
    for statement in brake.on.split(';').chain(["SELECT pg_reload_conf()"]) {
        session.batch_execute(statement).await?;
    }
    // Sessions take a reload up one by one: it is told when the projector's have. This session writes all the same.
    ready(address, 503, brake.told).await?;
    session
        .batch_execute("SET default_transaction_read_only = off; UPDATE shop.orders SET status = 'unseen' WHERE id <= 3")
        .await?;
    for command in ["check", "status"] {
        let (status, output, errors) = program.run(&[command])?;
        let said = format!("{output}{errors}");
        assert!(status == 1 && said.contains(brake.told) && said.contains(brake.remedy), "{command}: {status} {said}");
    }
    let (status, _, errors) = program.run(&["wait", "--timeout", "100ms"])?;
    assert!(status == 3 && errors.contains(brake.told), "{status} {errors}");
    let written: i64 = session.query_one("SELECT count(*) FROM read_model.order_row WHERE status = 'unseen'", &[]).await?.get(0);
    assert_eq!(written, 0, "it is obeyed");
    for statement in [brake.off, "SELECT pg_reload_conf()"] {
        session.batch_execute(statement).await?;
    }
    until(session, "SELECT count(*) = 3 FROM read_model.order_row WHERE status = 'unseen'").await?;
    ready(address, 200, "").await?;
    catch_up(setup).await?;
    assert_equal(setup).await?;
    session.batch_execute("UPDATE shop.orders SET status = 'seen' WHERE id <= 3").await?;
    catch_up(setup).await?;
    assert_equal(setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brake_is_obeyed_and_told_and_goes_by_itself() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = shop(&setup.source_url).await?;
    let program = Program::new(&setup)?;
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    program.file("lockstep.toml", &setup.toml().replace("listen = \"\"", &format!("listen = \"{address}\"")))?;
    let _running = Ended(program.start("")?);
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    for brake in BRAKES {
        obeys(&session, &setup, &program, address, brake).await.map_err(|error| error.context(program.log()))?;
        let lines = program.log().lines().filter(|line| line.contains(brake.told)).count();
        assert!((1..=8).contains(&lines), "a line for each change of state, not {lines}: {}", program.log());
    }
    Ok(())
}
