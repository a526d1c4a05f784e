//! Large transactions and whole relations.

use std::sync::Arc;

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, cluster, connect};

use crate::harness::{PROJECTIONS, Program, Projector, Setup, assert_equal, catch_up, shop, until};

/// Rows of the large transaction.
const ROWS: u64 = 1_000_000;

/// Memory above idle that a transaction of any size may take.
const ABOVE_IDLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn memory(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or_else(|| anyhow::anyhow!("no {field}"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok(kibibytes * 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_in_one_transaction_cost_little_memory() -> anyhow::Result<()> {
    let (source, target) = (cluster()?, cluster()?);
    let mut setup = Setup::new(
        &source.url("postgres"),
        &[
            ("wide", "SELECT w.id, w.n, w.filler FROM wide w", ""),
            ("totals", "SELECT w.n, count(*) AS rows, sum(w.id) AS ids FROM wide w GROUP BY w.n", ""),
        ],
    );
    setup.target_url = Some(target.url("postgres"));
    let session = connect(&setup.source_url).await?;
    session.batch_execute("CREATE TABLE wide (id bigint PRIMARY KEY, n integer, filler text)").await?;
    session.batch_execute("INSERT INTO wide SELECT n, n % 10, repeat('x', 50) FROM generate_series(1, 1000) n").await?;
    let program = Program::new(&setup)?;
    let mut child = program.start("")?;
    let result = async {
        let target = connect(setup.target_url()).await?;
        until(&target, "SELECT count(*) = 2 AND bool_and(state = 'live') FROM lockstep.projection").await?;
        catch_up(&setup).await?;
        let idle = memory(child.id(), "VmRSS")?;
        session
            .batch_execute(&format!("INSERT INTO wide SELECT n, n % 100, repeat('y', 50) FROM generate_series(1001, {ROWS}) n"))
            .await?;
        catch_up(&setup).await?;
        session.batch_execute("UPDATE wide SET n = n + 1").await?;
        catch_up(&setup).await?;
        let peak = memory(child.id(), "VmHWM")?;
        println!("{ROWS} rows in one transaction: {} KiB idle, {} KiB at the peak", idle / 1024, peak / 1024);
        assert_equal(&setup).await?;
        anyhow::ensure!(peak.saturating_sub(idle) < ABOVE_IDLE_BYTES_MAX, "{} bytes above idle", peak - idle);
        Ok(())
    }
    .await
    .map_err(|error: anyhow::Error| error.context(program.log()));
    child.kill()?;
    child.wait()?;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_and_refill() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = shop(&setup.source_url).await?;
    let oracle = Arc::new(Oracle::strict());
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for statement in [
        "TRUNCATE shop.region",
        "BEGIN; TRUNCATE shop.customer; INSERT INTO shop.customer VALUES (7, 'Only', 'r1', 2); COMMIT",
        "INSERT INTO shop.region VALUES ('r1', 'Region 1 again')",
        "BEGIN; TRUNCATE shop.orders, shop.line; ROLLBACK",
        "TRUNCATE shop.orders, shop.line",
        "INSERT INTO shop.orders SELECT n, 7, 'paid', n FROM generate_series(1, 50) n",
        "INSERT INTO shop.line SELECT n, 1, 'p', n FROM generate_series(1, 50) n",
    ] {
        session.batch_execute(statement).await?;
        projector.catch_up().await?;
        assert_equal(&setup).await.map_err(|error| error.context(statement))?;
    }
    projector.stop().await?;
    assert_eq!(oracle.total().different, 0);
    Ok(())
}

/// More keys than a batch names: the relation collapses to "everything", and unchanged rows are still not rewritten.
#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_row_is_not_rewritten() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &[("order_row", PROJECTIONS[0].1, ""), ("sales", PROJECTIONS[4].1, "")]);
    let session = shop(&setup.source_url).await?;
    let options = RefreshOptions { root_keys_max: 10, groups_max: 1, statement_keys_max: 7, ..RefreshOptions::default() };
    let mut projector = Projector::start(&setup, None, options).await?;
    projector.catch_up().await?;
    let versions = "SELECT string_agg(id || ':' || xmin::text, ',' ORDER BY id) FROM read_model.order_row WHERE id <> 5";
    let before: String = session.query_one(versions, &[]).await?.get(0);
    // Every customer is touched, none changes; one order does.
    session.batch_execute("UPDATE shop.customer SET tier = tier; UPDATE shop.orders SET amount = 4711 WHERE id = 5").await?;
    projector.catch_up().await?;
    let after: String = session.query_one(versions, &[]).await?.get(0);
    assert_eq!(before, after, "rows were rewritten");
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}
