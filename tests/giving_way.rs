//! The application's DDL does not wait for what reads for long: that is let go, and done again.

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Projector, Setup, shop, until};

/// A query that takes twenty milliseconds a row: reading all of it holds its tables for seconds.
const SLOW: &str = "CREATE FUNCTION shop.slow(value integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(0.02); RETURN value; END';
    DELETE FROM shop.orders WHERE id > 200";

/// Somebody who alters the table waits no longer than is configured, plus a look.
#[tokio::test(flavor = "multi_thread")]
async fn ddl_goes_before_a_verification() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[("slow_orders", "SELECT o.id, o.status, shop.slow(o.id::integer) AS value FROM shop.orders o", "")],
    );
    let session = shop(&setup.source_url).await?;
    session.batch_execute(SLOW).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute("INSERT INTO lockstep.request (kind, arguments) VALUES ('verify', '{\"names\": []}')").await?;
    let reads = "SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
                                WHERE l.relation = 'shop.orders'::regclass AND a.application_name = 'lockstep verify')";
    until(&session, reads).await?;
    let application = connect(&setup.source_url).await?;
    // Without giving way it would have to wait for what is left of four seconds.
    application.batch_execute("SET lock_timeout = '2500ms'; SET application_name = 'a migration'").await?;
    application.batch_execute("ALTER TABLE shop.orders ADD COLUMN note text").await?;
    let waiting: bool = session.query_one("SELECT done_at IS NULL FROM lockstep.request", &[]).await?.get(0);
    assert!(waiting, "the verification was over before: nothing was tried");
    until(&session, "SELECT done_at IS NOT NULL AND error IS NULL FROM lockstep.request").await?;
    until(&session, "SELECT count(*) = 1 AND bool_and(outcome = 'equal') FROM lockstep.verification").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}
