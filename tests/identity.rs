//! Replica identities with which publishing would break the application's writes, or lose keys.

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{PATIENCE, Program, Projector, Setup, until};

const SCHEMA: &str = "
    CREATE TABLE parted (id integer, reg text, v integer NOT NULL, PRIMARY KEY (id, reg)) PARTITION BY LIST (reg);
    CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
    CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b');
    CREATE TABLE parted_c (id integer NOT NULL, reg text NOT NULL, v integer NOT NULL, PRIMARY KEY (id, reg));
    INSERT INTO parted SELECT n, (ARRAY['a', 'b'])[1 + n % 2], n FROM generate_series(1, 20) n;
    INSERT INTO parted_c SELECT n, 'c', n FROM generate_series(21, 30) n;";

/// What is done to a leaf, and the statement that mends it.
const LEAVES: &[(&str, &str)] = &[
    ("ALTER TABLE parted_b REPLICA IDENTITY NOTHING", "ALTER TABLE public.parted_b REPLICA IDENTITY DEFAULT"),
    (
        "CREATE UNIQUE INDEX by_v ON parted_b (v); ALTER TABLE parted_b REPLICA IDENTITY USING INDEX by_v",
        "ALTER TABLE public.parted_b REPLICA IDENTITY DEFAULT",
    ),
    (
        "DROP INDEX IF EXISTS by_v; CREATE UNIQUE INDEX by_v ON parted_b (v); ALTER TABLE parted_b REPLICA IDENTITY USING INDEX by_v; DROP INDEX by_v",
        "ALTER TABLE public.parted_b REPLICA IDENTITY DEFAULT",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_leaf_is_looked_at_before_anything_is_published_and_when_it_is_attached() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &[("parted", "SELECT p.id, p.reg, p.v FROM parted p", "")]);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(SCHEMA).await?;
    let program = Program::new(&setup)?;
    for (wrong, remedy) in LEAVES {
        session.batch_execute(wrong).await?;
        for command in [&["check"][..], &["run", "--once"]] {
            let (status, _, errors) = program.run(command)?;
            assert!(
                status == 1 && errors.contains("parted_b") && errors.contains(remedy),
                "{wrong}: {command:?} {status} {errors}"
            );
        }
        let published: i64 = session.query_one("SELECT count(*) FROM pg_publication", &[]).await?.get(0);
        assert_eq!(published, 0, "nothing is published that breaks the application's writes");
        session.batch_execute("UPDATE parted SET v = v + 100").await?;
        session.batch_execute(remedy).await?;
    }
    let (status, _, errors) = program.run(&["check"])?;
    assert!(status == 0, "{errors}");
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute("UPDATE parted SET v = v + 100").await?;
    projector.is_equal(&setup).await?;

    // One that comes later is told with the statement, and the others go on.
    session
        .batch_execute(
            "ALTER TABLE parted_c REPLICA IDENTITY NOTHING; ALTER TABLE parted ATTACH PARTITION parted_c FOR VALUES IN ('c')",
        )
        .await?;
    assert!(session.batch_execute("UPDATE parted SET v = v + 1 WHERE reg = 'c'").await.is_err(), "PostgreSQL refuses it");
    until(&session, "SELECT count(*) = 30 FROM read_model.parted").await?;
    let remedy = "ALTER TABLE public.parted_c REPLICA IDENTITY DEFAULT";
    for command in ["status", "check"] {
        let (status, output, errors) = program.run(&[command])?;
        assert!(status == 1 && format!("{output}{errors}").contains(remedy), "{command}: {status} {output} {errors}");
    }
    session.batch_execute("UPDATE parted SET v = v + 1 WHERE reg = 'a'").await?;
    projector.is_equal(&setup).await?;
    session.batch_execute(remedy).await?;
    session.batch_execute("UPDATE parted SET v = v + 1, id = id + 1000; DELETE FROM parted WHERE id % 7 = 0").await?;
    projector.catch_up().await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.is_equal(&setup).await?;
    let (status, output, errors) = program.run(&["check"])?;
    assert!(status == 0, "{output} {errors}");
    projector.stop().await?;
    Ok(())
}

const PLAIN: &str = "CREATE TABLE plain (id integer PRIMARY KEY, code integer NOT NULL, v integer);
    CREATE UNIQUE INDEX by_code ON plain (code); ALTER TABLE plain REPLICA IDENTITY USING INDEX by_code;
    INSERT INTO plain SELECT n, n + 100, n FROM generate_series(1, 20) n;";

/// What takes the identity of a published table away, and the statement that mends it.
const TAKEN: &[(&str, &str)] = &[
    ("DROP INDEX by_code", "ALTER TABLE public.plain REPLICA IDENTITY DEFAULT"),
    ("ALTER TABLE plain DROP CONSTRAINT plain_pkey", "ALTER TABLE public.plain REPLICA IDENTITY FULL"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_taken_from_a_published_table_is_told_with_what_mends_it() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[("plain", "SELECT p.id, p.code, p.v FROM plain p", ""), ("parted", "SELECT p.id, p.reg, p.v FROM parted p", "")],
    );
    let session = connect(&setup.source_url).await?;
    session.batch_execute(SCHEMA).await?;
    session.batch_execute(PLAIN).await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for (taken, remedy) in TAKEN {
        session.batch_execute(taken).await?;
        assert!(session.batch_execute("UPDATE plain SET v = v + 1").await.is_err(), "{taken}: PostgreSQL refuses it");
        // Told by itself: in the log, and for its projection.
        until(&session, &format!("SELECT concat(reason, hint) LIKE '%{remedy}%' FROM lockstep.projection WHERE name = 'plain'"))
            .await
            .map_err(|error| error.context(*taken))?;
        for command in ["status", "check"] {
            let (status, output, errors) = program.run(&[command])?;
            assert!(status == 1 && format!("{output}{errors}").contains(remedy), "{taken} {command}: {status} {output} {errors}");
        }
        session.batch_execute("UPDATE parted SET v = v + 1").await?;
        until(&session, "SELECT sum(v) = (SELECT sum(v) FROM parted) FROM read_model.parted").await?;
        session.batch_execute(remedy).await?;
        // It is published anew, with what identifies it now.
        updates(&session, "UPDATE plain SET v = v + 1").await?;
        until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
        projector.is_equal(&setup).await?;
    }
    projector.stop().await?;
    Ok(())
}

/// Waits until a statement succeeds.
async fn updates(session: &Session, statement: &str) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = session.batch_execute(statement).await {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{statement}: {error:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// From 18 on an identity that holds a generated column makes updates fail where that column is not published.
#[tokio::test(flavor = "multi_thread")]
async fn a_generated_column_in_the_identity_is_published() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let session = connect(&cluster.url("postgres")).await?;
    session
        .batch_execute(
            "CREATE TABLE made (id integer PRIMARY KEY, a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED);
             ALTER TABLE made REPLICA IDENTITY FULL; INSERT INTO made SELECT n, n FROM generate_series(1, 20) n;
             CREATE TABLE keyless (a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED);
             ALTER TABLE keyless REPLICA IDENTITY FULL; INSERT INTO keyless SELECT n FROM generate_series(1, 20) n",
        )
        .await?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[("made", "SELECT m.id, m.twice FROM made m", ""), ("keyless", "SELECT k.a, k.twice FROM keyless k", "")],
    );
    let change = "UPDATE made SET a = a + 1; DELETE FROM made WHERE id = 3; UPDATE keyless SET a = a + 1 WHERE a > 5";
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute(change).await?;
    projector.is_equal(&setup).await?;
    let major: i32 = session.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await?.get(0);
    if major < 18 {
        // Before, there is nothing that could be set otherwise.
        projector.stop().await?;
        return Ok(());
    }
    // One that somebody has made otherwise is told, and set right.
    projector.stop().await?;
    session.batch_execute("ALTER PUBLICATION lockstep SET (publish_generated_columns = none)").await?;
    assert!(session.batch_execute(change).await.is_err(), "PostgreSQL refuses it");
    let (status, output, errors) = Program::new(&setup)?.run(&["check"])?;
    assert!(status == 0 && output.contains("it leaves stored generated columns out"), "{status} {output}{errors}");
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute(change).await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}
