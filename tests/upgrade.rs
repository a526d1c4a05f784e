//! Installations of earlier versions, and the history of migrations.

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Projector, Setup};

/// What the last version that kept another history had applied: the name, the file, and the row as that version wrote it.
const EARLIER: &[(&str, &str, &str)] = &[
    ("metadata", include_str!("../migrations/0001_metadata.sql"), "2026-01-02T14:47:02.88319796Z', '11915284981970535256"),
    (
        "time_and_parts",
        include_str!("../migrations/0002_time_and_parts.sql"),
        "2026-01-02T14:47:02.887824971Z', '2839983962851160976",
    ),
    ("quarantine", include_str!("../migrations/0003_quarantine.sql"), "2026-01-02T14:47:02.888656467Z', '3762095248224776763"),
    ("backstop", include_str!("../migrations/0004_backstop.sql"), "2026-01-02T14:47:02.892683279Z', '6851939628906209539"),
    ("versions", include_str!("../migrations/0005_versions.sql"), "2026-01-02T14:47:02.898720225Z', '16090079013210165620"),
    ("degraded", include_str!("../migrations/0006_degraded.sql"), "2026-01-02T14:47:02.900595953Z', '9211215229806835120"),
    ("reading", include_str!("../migrations/0007_reading.sql"), "2026-01-02T14:47:02.906626747Z', '13561896001696741318"),
];

const ITEMS: &str =
    "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 50) n";
const PROJECTION: &[(&str, &str, &str)] = &[("items", "SELECT id, upper(name) AS name FROM item", "")];

/// Makes the metadata as the first `versions` migrations did, with the history that was kept then.
pub(crate) async fn install_earlier(target: &Session, versions: usize) -> anyhow::Result<()> {
    target
        .batch_execute(
            "CREATE SCHEMA lockstep; CREATE TABLE lockstep.migration(
             version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255));",
        )
        .await?;
    for (index, (name, sql, rest)) in EARLIER.iter().take(versions).enumerate() {
        target.batch_execute(sql).await?;
        let row = format!("INSERT INTO lockstep.migration VALUES ({}, '{name}', '{rest}')", index + 1);
        target.batch_execute(&row).await?;
    }
    Ok(())
}

/// The history as `sqlx migrate info` compares it with the folder.
async fn history(target: &Session) -> anyhow::Result<Vec<(i64, String, Vec<u8>)>> {
    let rows = target
        .query("SELECT version, description, checksum FROM lockstep._sqlx_migrations WHERE success ORDER BY version", &[])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

async fn folder() -> anyhow::Result<Vec<(i64, String, Vec<u8>)>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let found = sqlx::migrate::Migrator::new(path).await?;
    Ok(found.iter().map(|one| (one.version, one.description.to_string(), one.checksum.to_vec())).collect())
}

/// Whatever the earlier version was, the upgrade ends where a new installation does.
#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_history_is_taken_over() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let wanted = folder().await?;
    assert!(wanted.len() >= EARLIER.len());
    for versions in [0, 3, EARLIER.len()] {
        let database = format!("after_{versions}");
        connect(&cluster.url("postgres")).await?.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        let setup = Setup::new(&cluster.url(&database), PROJECTION);
        let session = connect(&setup.source_url).await?;
        session.batch_execute(ITEMS).await?;
        if versions > 0 {
            install_earlier(&session, versions).await?;
        }
        let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
        projector.ends_equal(&setup).await?;
        assert_eq!(history(&session).await?, wanted, "after {versions}");
        let left: bool = session.query_one("SELECT to_regclass('lockstep.migration') IS NOT NULL", &[]).await?.get(0);
        assert!(!left, "the earlier history has gone into the new one");
        if versions > 0 {
            let kept: bool = session
                .query_one(
                    "SELECT installed_on = '2026-01-02T14:47:02.883198Z' FROM lockstep._sqlx_migrations WHERE version = 1",
                    &[],
                )
                .await?
                .get(0);
            assert!(kept, "when it was installed is kept");
        }
        // One slot serves them all.
        let (exit, _, told) = Program::new(&setup)?.run(&["teardown", "--yes"])?;
        assert_eq!(exit, 0, "{told}");
    }
    Ok(())
}

/// A target that a newer version has set up is left alone, and said to be one, whichever history it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_installation_is_refused() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTION);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(ITEMS).await?;
    install_earlier(&session, EARLIER.len()).await?;
    let program = Program::new(&setup)?;
    let newer = [
        ("lockstep.migration", "INSERT INTO lockstep.migration VALUES (999, 'later', now()::text, '1')"),
        ("lockstep._sqlx_migrations", "INSERT INTO lockstep._sqlx_migrations VALUES (999, 'later', now(), true, 'x', 1)"),
    ];
    for (table, statement) in newer {
        session.batch_execute(statement).await?;
        let (exit, _, told) = program.run(&["run", "--once"])?;
        assert_eq!(exit, 1, "{told}");
        assert!(told.contains("newer version of Lockstep"), "{told}");
        session.batch_execute(&format!("DELETE FROM {table} WHERE version = 999")).await?;
        let (exit, _, told) = program.run(&["run", "--once"])?;
        assert_eq!(exit, 0, "{told}");
    }
    Ok(())
}
