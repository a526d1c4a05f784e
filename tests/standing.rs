//! Copies of a target, and a source that is not in force any more.

use std::io::Write as _;
use std::path::Path;

use lockstep_cluster::{Binaries, Cluster, ClusterOptions};
use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, cluster_with, connect};

use crate::harness::{Program, Projector, Setup, assert_equal, until};

const PROJECTION: &[(&str, &str, &str)] = &[
    ("items", "SELECT id, upper(name) AS name FROM item", ""),
    ("names", "SELECT left(name, 6) AS start, count(*) AS n FROM item GROUP BY 1", ""),
];

const ITEMS: &str =
    "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 50) n";

/// Changes when a slot is made anew, or the installation becomes another.
async fn slot_created(target: &Session) -> anyhow::Result<String> {
    Ok(target.query_one("SELECT slot_created_lsn::text || ' ' || id FROM lockstep.installation", &[]).await?.get(0))
}

async fn left_alone(source: &Session) -> anyhow::Result<()> {
    let there: bool = source
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'lockstep')
                    AND EXISTS (SELECT FROM pg_publication WHERE pubname = 'lockstep')",
            &[],
        )
        .await?
        .get(0);
    anyhow::ensure!(there, "the original's slot and publication are there");
    Ok(())
}

fn fails(program: &Program, arguments: &[&str], says: &str) -> anyhow::Result<()> {
    let (exit, out, told) = program.run(arguments)?;
    anyhow::ensure!(exit == 1 && format!("{out}{told}").contains(says), "{arguments:?}: {exit}\n{out}\n{told}");
    Ok(())
}

fn works(program: &Program, arguments: &[&str]) -> anyhow::Result<String> {
    let (exit, out, told) = program.run(arguments)?;
    anyhow::ensure!(exit == 0, "{arguments:?}: {exit}\n{out}\n{told}");
    Ok(format!("{out}{told}"))
}

/// Databases `shop` and `models` of one cluster, with a session on the cluster and one on the source.
async fn two_databases() -> anyhow::Result<(Cluster, Session, Session, Setup)> {
    let cluster = cluster()?;
    let admin = connect(&cluster.url("postgres")).await?;
    for database in ["shop", "models"] {
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
    }
    let mut setup = Setup::new(&cluster.url("shop"), PROJECTION);
    setup.target_url = Some(cluster.url("models"));
    let source = connect(&setup.source_url).await?;
    source.batch_execute(ITEMS).await?;
    Ok((cluster, admin, source, setup))
}

/// A database that was copied is told from its original by its place, whatever is tried with it, and goes its own way on another slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_target_leaves_the_original_alone() -> anyhow::Result<()> {
    let (cluster, admin, source, setup) = two_databases().await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    projector.stop().await?;
    for copy in ["copied", "copied_too"] {
        admin.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE models")).await?;
    }
    source.batch_execute("UPDATE item SET name = 'while it runs' WHERE id = 1").await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let original = connect(setup.target_url()).await?;
    let before = slot_created(&original).await?;
    source.batch_execute("UPDATE item SET name = 'other ' || id WHERE id < 10").await?;

    let mut of_copy = setup.clone();
    of_copy.target_url = Some(cluster.url("copied"));
    let program = Program::new(&of_copy)?;
    fails(&program, &["check"], "this target is a copy of an installation")?;
    fails(&program, &["run", "--once"], "lockstep adopt")?;
    fails(&program, &["rebuild", "items"], "this target is a copy of an installation")?;
    fails(&program, &["verify"], "this target is a copy of an installation")?;
    fails(&program, &["adopt"], "the original is not gone")?;
    assert!(works(&program, &["teardown", "--yes"])?.contains("left slot lockstep"));
    left_alone(&source).await?;

    // With a slot of its own it is an installation of its own, on a publication that both use.
    let mut apart = setup.clone();
    apart.target_url = Some(cluster.url("copied_too"));
    let toml = apart.toml().replace("[metrics]", "slot = \"apart\"\n[metrics]");
    let program = Program::new(&apart)?;
    program.file("lockstep.toml", &toml)?;
    works(&program, &["run", "--once"])?;
    assert_equal(&apart).await?;
    assert_ne!(slot_created(&connect(apart.target_url()).await?).await?, before);
    assert!(works(&program, &["teardown", "--yes"])?.contains("left publication lockstep"));
    left_alone(&source).await?;

    projector.is_equal(&setup).await?;
    assert_eq!(slot_created(&original).await?, before, "the original goes on with the slot that it made");
    projector.stop().await?;
    assert_eq!(noted(&source).await?, 1);
    assert!(works(&Program::new(&setup)?, &["teardown", "--yes"])?.contains("dropped publication lockstep"));
    assert_eq!(noted(&source).await?, 0, "nothing is left behind on the source");
    Ok(())
}

/// `pg_dump` and restore into the same place, and `pg_upgrade`, which gives the cluster another identifier: the original is gone, and the
/// copy is adopted.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_original_is_gone_is_adopted() -> anyhow::Result<()> {
    let (_cluster, admin, source, setup) = two_databases().await?;
    let program = Program::new(&setup)?;
    works(&program, &["run", "--once"])?;
    let dump = program.directory.path().join("dump.sql");
    let binaries = Binaries::find()?;
    let tool = |name: &str, arguments: &[&str]| tool(&binaries, name, setup.target_url(), arguments);
    let file = dump.to_string_lossy().into_owned();
    tool("pg_dump", &["-f", &file])?;
    works(&program, &["run", "--once"])?;
    admin.batch_execute("DROP DATABASE models WITH (FORCE)").await?;
    admin.batch_execute("CREATE DATABASE models").await?;
    tool("psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", &file])?;
    source.batch_execute("UPDATE item SET name = 'other ' || id WHERE id < 10; DELETE FROM item WHERE id > 40").await?;
    for round in ["restored", "upgraded"] {
        if round == "upgraded" {
            let target = connect(setup.target_url()).await?;
            target.batch_execute("UPDATE lockstep.installation SET target_system = '7000000000000000001'").await?;
        }
        fails(&program, &["run", "--once"], "this target is a copy of an installation")?;
        left_alone(&source).await?;
        let told = works(&program, &["adopt"])?;
        assert!(told.contains("accepted: this target is the installation"), "{told}");
        assert!(works(&program, &["adopt"])?.contains("nothing to adopt"));
        works(&program, &["run", "--once"])?;
        assert_equal(&setup).await.map_err(|error| error.context(round))?;
    }
    works(&program, &["run", "--once"])?;
    Ok(())
}

/// A program of PostgreSQL's, connected to `url`.
fn tool(binaries: &Binaries, name: &str, url: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let beside = binaries.directory.join(name);
    let mut command = std::process::Command::new(if beside.exists() { beside } else { name.into() });
    let output = command.arg("-d").arg(url).args(arguments).output()?;
    anyhow::ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status()?;
    anyhow::ensure!(status.success(), "copying {}", from.display());
    Ok(())
}

/// What the source has noted, as anybody sees it there.
async fn noted(source: &Session) -> anyhow::Result<i64> {
    let query =
        "SELECT count(*) FROM pg_description WHERE classoid = 'pg_largeobject'::regclass AND description LIKE 'Lockstep notes%'";
    Ok(source.query_one(query, &[]).await?.get(0))
}

/// A copy of the target's whole cluster has the same identifier and the same oids. While the original lives it is a copy; when it is
/// gone, it is its standby that was promoted, and the same installation.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_targets_cluster_beside_its_original_and_in_its_place() -> anyhow::Result<()> {
    let shop = cluster()?;
    let mut models = cluster_with(&["full_page_writes=on"])?;
    let mut setup = Setup::new(&shop.url("postgres"), PROJECTION);
    setup.target_url = Some(models.url("postgres"));
    let source = connect(&setup.source_url).await?;
    source.batch_execute(ITEMS).await?;
    works(&Program::new(&setup)?, &["run", "--once"])?;
    models.stop_server("fast")?;
    let backup = tempfile::tempdir()?;
    copy(&models.directory().join("data"), &backup.path().join("data"))?;
    models.start_server()?;
    // Recovered to the end of its WAL, as a base backup is, and a standby that is promoted.
    let options = ClusterOptions {
        template: Some(backup.path().join("data")),
        files: vec![("recovery.signal".to_owned(), String::new())],
        settings: vec!["restore_command=false".to_owned(), "recovery_target_action=promote".to_owned()],
        ..ClusterOptions::default()
    };
    let beside = Cluster::start(&Binaries::find()?, &options)?;
    let mut of_copy = setup.clone();
    of_copy.target_url = Some(beside.url("postgres"));
    let copied = connect(of_copy.target_url()).await?;
    until(&copied, "SELECT NOT pg_is_in_recovery()").await?;
    let program = Program::new(&of_copy)?;

    // The original streams, and has not written in the copy for long.
    copied.batch_execute("UPDATE lockstep.installation SET lease_until = now() - interval '1 hour'").await?;
    source.batch_execute("UPDATE item SET name = 'while it runs' WHERE id = 1").await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    fails(&program, &["run", "--once"], "this target is a copy of an installation")?;
    fails(&program, &["adopt"], "the original is not gone")?;
    works(&program, &["plan"])?;
    left_alone(&source).await?;
    projector.ends_equal(&setup).await?;
    // It has been started since the copy was made, though nobody streams now.
    fails(&program, &["run", "--once"], "the original has been started since")?;
    // The original is gone.
    source.batch_execute("UPDATE item SET name = 'other ' || id WHERE id < 10").await?;
    works(&program, &["adopt"])?;
    works(&program, &["run", "--once"])?;
    assert_equal(&of_copy).await?;
    // And comes back: the slot is not its own any more.
    fails(&Program::new(&setup)?, &["run", "--once"], "this target is a copy of an installation")?;
    left_alone(&source).await?;
    Ok(())
}

/// A volume's snapshot of a target that is being written to, started at once: its lease has hardly run out, nobody has the lock there, and
/// its original has not been started since. It leaves the slot alone, also where nothing moves and statistics are not for everybody to
/// read, and with a slot of its own it leaves the original's where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_the_running_target_leaves_the_slot_alone() -> anyhow::Result<()> {
    let shop = cluster()?;
    let models = cluster_with(&["full_page_writes=on"])?;
    let admin = connect(&shop.url("postgres")).await?;
    admin.batch_execute(ITEMS).await?;
    admin
        .batch_execute(
            "CREATE ROLE follower LOGIN REPLICATION; GRANT SELECT ON item TO follower;
             CREATE PUBLICATION lockstep FOR TABLE item WITH (publish_via_partition_root = true)",
        )
        .await?;
    let mut setup = Setup::new(&shop.url("postgres").replacen("postgres@", "follower@", 1), PROJECTION);
    setup.target_url = Some(models.url("postgres"));
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let original = connect(setup.target_url()).await?;
    let before = slot_created(&original).await?;
    let slot_pid = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'lockstep' AND active_pid IS NOT NULL";
    let streams: i32 = admin.query_one(slot_pid, &[]).await?.get(0);

    let backup = tempfile::tempdir()?;
    let binaries = Binaries::find()?;
    let data = backup.path().join("data");
    tool(&binaries, "pg_basebackup", setup.target_url(), &["-c", "fast", "-D", &data.to_string_lossy()])?;
    let options = ClusterOptions { template: Some(data), ..ClusterOptions::default() };
    let beside = Cluster::start(&binaries, &options)?;
    let mut of_copy = setup.clone();
    of_copy.target_url = Some(beside.url("postgres"));
    let program = Program::new(&of_copy)?;
    for arguments in [&["run", "--once"] as &[&str], &["check"]] {
        fails(&program, arguments, "this target is a copy of an installation")?;
    }
    fails(&program, &["adopt"], "the original is not gone")?;
    let toml = of_copy.toml().replace("[metrics]", "slot = \"apart\"\n[metrics]");
    let apart = Program::new(&of_copy)?;
    apart.file("lockstep.toml", &toml)?;
    works(&apart, &["run", "--once"])?;
    assert_equal(&of_copy).await?;
    assert!(works(&apart, &["teardown", "--yes"])?.contains("dropped slot apart"));
    left_alone(&admin).await?;

    admin.batch_execute("UPDATE item SET name = 'other ' || id WHERE id < 10").await?;
    projector.is_equal(&setup).await?;
    assert_eq!(slot_created(&original).await?, before, "the original goes on with the slot that it made");
    assert_eq!(admin.query_one(slot_pid, &[]).await?.get::<_, i32>(0), streams, "nobody has ended its stream");
    projector.stop().await?;
    Ok(())
}

/// A standby of the target takes over: nothing has to be said, and nothing is compared that need not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_of_the_target_is_the_same_installation() -> anyhow::Result<()> {
    let shop = cluster()?;
    let mut models = cluster_with(&["full_page_writes=on"])?;
    let mut setup = Setup::new(&shop.url("postgres"), PROJECTION);
    setup.target_url = Some(models.url("postgres"));
    let source = connect(&setup.source_url).await?;
    source.batch_execute(ITEMS).await?;
    works(&Program::new(&setup)?, &["run", "--once"])?;
    models.stop_server("fast")?;
    let options = ClusterOptions {
        template: Some(models.directory().join("data")),
        files: vec![("recovery.signal".to_owned(), String::new())],
        settings: vec!["restore_command=false".to_owned(), "recovery_target_action=promote".to_owned()],
        ..ClusterOptions::default()
    };
    let promoted = Cluster::start(&Binaries::find()?, &options)?;
    setup.target_url = Some(promoted.url("postgres"));
    let target = connect(setup.target_url()).await?;
    until(&target, "SELECT NOT pg_is_in_recovery()").await?;
    let before = slot_created(&target).await?;
    source.batch_execute("UPDATE item SET name = 'other ' || id WHERE id < 10").await?;
    works(&Program::new(&setup)?, &["run", "--once"])?;
    assert_equal(&setup).await?;
    assert_eq!(slot_created(&target).await?, before, "the slot is the same");
    // The former primary, started by mistake.
    models.start_server()?;
    let mut former = setup.clone();
    former.target_url = Some(models.url("postgres"));
    fails(&Program::new(&former)?, &["run", "--once"], "this target is a copy of an installation")?;
    left_alone(&source).await?;
    Ok(())
}

/// After a failover the address leads to the old primary, which nobody has rebuilt: what it lacks stays in the read models, and it is
/// named until the address leads to the server that is in force.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_is_not_followed() -> anyhow::Result<()> {
    let mut shop = cluster_with(&["full_page_writes=on"])?;
    let models = cluster()?;
    let mut setup = Setup::new(&shop.url("postgres"), PROJECTION);
    setup.target_url = Some(models.url("postgres"));
    connect(&setup.source_url).await?.batch_execute(ITEMS).await?;
    let target = connect(setup.target_url()).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    shop.stop_server("fast")?;
    let data = shop.directory().join("data");
    let old = tempfile::tempdir()?;
    copy(&data, &old.path().join("data"))?;
    let signal =
        std::process::Command::new("cp").arg("-a").args([data.join("PG_VERSION"), data.join("recovery.signal")]).status()?;
    anyhow::ensure!(signal.success());
    let mut settings = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"))?;
    writeln!(settings, "restore_command = 'false'\nrecovery_target_action = 'promote'")?;
    drop(settings);
    shop.start_server()?;
    // The new primary, and what only it knows.
    let session = connect(&setup.source_url).await?;
    until(&session, "SELECT NOT pg_is_in_recovery()").await?;
    session.batch_execute("UPDATE item SET name = 'after ' || id WHERE id < 20; DELETE FROM item WHERE id > 40").await?;
    until(&target, "SELECT count(*) FILTER (WHERE name LIKE 'AFTER%') = 19 AND count(*) = 40 FROM read_model.items").await?;
    until(&target, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    drop(session);
    shop.stop_server("fast")?;
    std::fs::rename(&data, shop.directory().join("new"))?;
    copy(&old.path().join("data"), &data)?;
    shop.start_server()?;
    until(&target, "SELECT trouble LIKE '%an old primary%' FROM lockstep.installation").await?;
    let program = Program::new(&setup)?;
    fails(&program, &["check"], "it is on timeline 1")?;
    // It writes, and nobody follows.
    connect(&setup.source_url).await?.batch_execute("INSERT INTO item SELECT n, 'lost' FROM generate_series(100, 200) n").await?;
    fails(&program, &["verify"], "an old primary")?;
    let kept: bool = target
        .query_one("SELECT count(*) FILTER (WHERE name LIKE 'AFTER%') = 19 AND count(*) = 40 FROM read_model.items", &[])
        .await?
        .get(0);
    assert!(kept, "the old primary's rows have not come back");
    shop.stop_server("fast")?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(shop.directory().join("new"), &data)?;
    shop.start_server()?;
    let session = connect(&setup.source_url).await?;
    session.batch_execute("UPDATE item SET name = 'last ' || id WHERE id < 5").await?;
    until(&target, "SELECT count(*) FILTER (WHERE name LIKE 'LAST%') = 4 FROM read_model.items").await?;
    until(&target, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}
