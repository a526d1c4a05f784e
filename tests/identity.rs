//! Replica identities with which publishing would break the application's writes, or lose keys.

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Projector, Setup, assert_equal, until};

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
    projector.catch_up().await?;
    assert_equal(&setup).await?;

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
    projector.catch_up().await?;
    assert_equal(&setup).await?;
    session.batch_execute(remedy).await?;
    session.batch_execute("UPDATE parted SET v = v + 1, id = id + 1000; DELETE FROM parted WHERE id % 7 = 0").await?;
    projector.catch_up().await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.catch_up().await?;
    assert_equal(&setup).await?;
    let (status, output, errors) = program.run(&["check"])?;
    assert!(status == 0, "{output} {errors}");
    projector.stop().await?;
    Ok(())
}
