//! Limits of names, sessions, files and patience.

use std::time::Duration;

use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{PATIENCE, Program, Projector, Setup, assert_equal, catch_up, until};

const ITEMS: &str = "CREATE TABLE item (id int PRIMARY KEY, name text, sku text); INSERT INTO item SELECT n, 'item ' || n, 's' || n FROM generate_series(1, 50) n";

const PROJECTION: &[(&str, &str, &str)] =
    &[("items", "SELECT id, upper(name) AS name, sku FROM item", "indexes = \"items.sql\"")];

/// Names of indexes as long as PostgreSQL takes them, alike in all but the last letters: a version is rebuilt, again and again, and they
/// are what was configured. One that cannot be built is said to be one.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_long_names_is_rebuilt() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTION);
    setup.preamble = "[backstop]\nschedule = \"0 0 1 1 *\"\n".to_owned();
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    let program = Program::new(&setup)?;
    let long = "i".repeat(62);
    let indexes =
        format!("CREATE INDEX {long}a ON items (name); CREATE INDEX {long}b ON items (sku); CREATE INDEX ON items (name, sku);");
    program.file("items.sql", &indexes)?;
    let mut child = program.start("")?;
    catch_up(&setup).await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    let names =
        "SELECT string_agg(c.relname, ',' ORDER BY c.relname) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
                 WHERE i.indrelid = 'read_model.items'::regclass";
    let before: String = session.query_one(names, &[]).await?.get(0);
    assert!(before.contains(&format!("{long}a,{long}b")), "{before}");
    for round in 0..2 {
        let (exit, out, told) = program.run(&["rebuild", "items", "--timeout", "50s"])?;
        assert_eq!(exit, 0, "round {round}: {out}{told}");
        let after: String = session.query_one(names, &[]).await?.get(0);
        assert_eq!(after, before, "round {round}");
    }
    until(&session, "SELECT to_regclass('read_model.mv_items') IS NOT NULL").await?;
    // Somebody else's table has the name that an index of the next version wants.
    session.batch_execute("DROP MATERIALIZED VIEW read_model.mv_items; CREATE UNIQUE INDEX ON item (sku)").await?;
    let taken: String = session
        .query_one("SELECT format('CREATE TABLE read_model.%I ()', $1::text)", &[&new_name(&format!("{long}a"))])
        .await?
        .get(0);
    session.batch_execute(&taken).await?;
    let (exit, out, told) = program.run(&["rebuild", "items", "--timeout", "50s"])?;
    assert_eq!(exit, 1, "{out}{told}");
    assert!(told.contains("cannot be built") && told.contains("already exists"), "{told}");
    child.kill()?;
    child.wait()?;
    assert_equal(&setup).await?;
    Ok(())
}

/// As a version in the making names its indexes.
fn new_name(index: &str) -> String {
    lockstep_plan::names::fitted("new_", index, "")
}

/// Nothing moves, because somebody has locked what a batch writes to: whoever waits for it ends, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn commands_end_when_nothing_moves() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTION);
    setup.projections[0].2 = String::new();
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let blocker = connect(&setup.source_url).await?;
    blocker.batch_execute("BEGIN; LOCK TABLE read_model.items IN ACCESS EXCLUSIVE MODE").await?;
    session.batch_execute("UPDATE item SET name = 'other' WHERE id = 1").await?;
    until(&session, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'read_model.items'::regclass)").await?;
    let program = Program::new(&setup)?;
    for command in
        [&["verify", "--patience", "2s"][..], &["repair", "--patience", "2s"], &["rebuild", "items", "--patience", "2s"]]
    {
        let (exit, out, told) = tokio::task::block_in_place(|| program.run(command))?;
        assert_eq!(exit, 3, "{command:?}: {out}{told}");
        assert!(told.contains("nothing has moved for 2 s"), "{command:?}: {told}");
    }
    let (exit, _, told) = tokio::task::block_in_place(|| program.run(&["wait", "--timeout", "1s"]))?;
    assert_eq!(exit, 3, "{told}");
    blocker.batch_execute("ROLLBACK").await?;
    projector.catch_up().await?;
    // Commands that look want a table, or the catalog, that somebody keeps to himself.
    let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    for (locked, commands) in [
        ("item", &[&["check", "--patience", "2s"][..], &["plan", "--patience", "2s"]][..]),
        (
            "lockstep.projection, lockstep.checkpoint, lockstep.quarantine",
            &[
                &["status", "--patience", "2s"],
                &["quarantine", "--patience", "2s"],
                &["quarantine", "retry", "--timeout", "1s"],
                &["wait", "--timeout", "1s"],
            ],
        ),
    ] {
        blocker.batch_execute(&format!("BEGIN; LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")).await?;
        for command in commands {
            let (exit, out, told) = tokio::task::block_in_place(|| program.run(command))?;
            assert_eq!(exit, 3, "{command:?}: {out}{told}");
            assert!(told.contains("given up: no answer within") && told.contains(&format!("pid {pid} (")), "{command:?}: {told}");
        }
        blocker.batch_execute("ROLLBACK").await?;
    }
    projector.ends_equal(&setup).await?;
    Ok(())
}

/// The log goes to a disk that is full: nothing is logged, and everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_log_ends_nothing() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTION);
    setup.projections[0].2 = String::new();
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
    let program = Program::new(&setup)?;
    let mut child = program.command(&["run", "--log", "debug"]).stderr(full).spawn()?;
    catch_up(&setup).await?;
    session.batch_execute("UPDATE item SET name = 'other' WHERE id < 10").await?;
    catch_up(&setup).await?;
    until(&session, "SELECT count(*) = 9 FROM read_model.items WHERE name = 'OTHER'").await?;
    assert!(child.try_wait()?.is_none(), "it runs");
    assert_equal(&setup).await?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// `check` knows how many sessions are needed: one fewer is refused with the number, and the number is enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_limit_below_what_is_needed_is_told() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin
        .batch_execute(&format!(
            "{ITEMS}; CREATE ROLE mirror LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO mirror; ALTER TABLE item OWNER TO mirror;
             ALTER ROLE mirror CONNECTION LIMIT 5"
        ))
        .await?;
    let mut setup = Setup::new(&cluster.url("postgres").replace("postgres@", "mirror@"), PROJECTION);
    setup.projections[0].2 = "group = \"one\"".to_owned();
    setup.projections.push((
        "names".to_owned(),
        "SELECT name, count(*) AS n FROM item GROUP BY name".to_owned(),
        "group = \"two\"".to_owned(),
    ));
    setup.preamble = "[[group]]\nname = \"one\"\n[[group]]\nname = \"two\"\n[backstop]\nschedule = \"* * * * *\"\n".to_owned();
    let program = Program::new(&setup)?;
    let (exit, told, errors) = program.run(&["check"])?;
    assert_eq!(exit, 1, "{told}{errors}");
    let needed: usize = errors
        .split("CONNECTION LIMIT 5 of role mirror is below the ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{errors}"));
    assert!(errors.contains(&format!("ALTER ROLE \"mirror\" CONNECTION LIMIT {needed};")), "{told}{errors}");
    for (limit, expected) in [(needed - 1, 1), (needed, 0)] {
        admin.batch_execute(&format!("ALTER ROLE mirror CONNECTION LIMIT {limit}")).await?;
        let (exit, told, errors) = program.run(&["check"])?;
        assert_eq!(exit, expected, "{limit}: {told}{errors}");
    }
    let mut child = program.start("")?;
    until(&admin, "SELECT count(*) = 2 AND bool_and(state = 'live') FROM lockstep.projection").await?;
    admin.batch_execute("UPDATE item SET name = 'other' WHERE id < 10").await?;
    until(&admin, "SELECT n = 9 FROM read_model.names WHERE name = 'other'").await?;
    until(&admin, "SELECT to_regclass('read_model.mv_items') IS NOT NULL").await?;
    let (exit, out, told) = program.run(&["verify"])?;
    assert_eq!(exit, 0, "{out}{told}");
    assert!(!program.log().contains("53300"), "{}", program.log());
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// A limit on temporary files is met, and raised for the role: sessions that were there before have the old one for as long as they live.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_raised_for_the_role_is_taken_up() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    admin
        .batch_execute(
            "CREATE TABLE entry (id int PRIMARY KEY, text text);
             INSERT INTO entry SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 5000) n;
             CREATE ROLE mirror LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO mirror; ALTER TABLE entry OWNER TO mirror;
             ALTER ROLE mirror SET work_mem = '64kB'; ALTER ROLE mirror SET temp_file_limit = '64kB'",
        )
        .await?;
    let setup = Setup::new(
        &cluster.url("postgres").replace("postgres@", "mirror@"),
        &[("ordered", "SELECT id, row_number() OVER (ORDER BY text, id) AS place FROM entry", "")],
    );
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    let log = cluster.directory().join("log");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&log)?.contains("temporary file size exceeds") {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "the limit was not met");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    admin.batch_execute("ALTER ROLE mirror RESET temp_file_limit").await?;
    until(&admin, "SELECT count(*) = 5000 FROM read_model.ordered").await?;
    until(&admin, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}
