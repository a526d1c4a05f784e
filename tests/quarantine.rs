//! Keys whose rows cannot be computed or written are set aside alone, and come back.

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::cluster;

use crate::harness::{Program, Projector, Setup, assert_equal, shop, until};

const SCHEMA: &str = "CREATE SCHEMA t;
    CREATE TABLE t.item (id int PRIMARY KEY, kind text, code text, raw text, weight int NOT NULL DEFAULT 1);
    CREATE TABLE t.tag (id int PRIMARY KEY, item_id int, name text);
    INSERT INTO t.item SELECT n, 'k' || n % 5, 'c' || n, n::text FROM generate_series(1, 50) n;
    INSERT INTO t.tag SELECT n, n, 'tag ' || n FROM generate_series(1, 50) n;";

/// Every way in which a key can fail: a cast, a scalar subquery, a write, a contribution, a group, a partition.
const PROJECTIONS: &[(&str, &str)] = &[
    ("cast", "SELECT i.id, i.raw::int AS n, i.kind FROM t.item i"),
    ("scalar", "SELECT i.id, (SELECT g.name FROM t.tag g WHERE g.item_id = i.id) AS tag FROM t.item i"),
    (
        "contributed",
        "SELECT i.kind, sum(i.raw::int) AS n, string_agg(i.code, ',' ORDER BY i.id) AS codes FROM t.item i GROUP BY i.kind",
    ),
    ("accumulated", "SELECT i.kind, sum(i.raw::int) AS n FROM t.item i GROUP BY i.kind"),
    ("ratio", "SELECT i.kind, 100 / sum(i.weight) AS share FROM t.item i GROUP BY i.kind"),
    ("total", "SELECT 1000 / (count(*) - 40) AS ratio FROM t.item i"),
    ("partition", "SELECT i.id, 100 / sum(i.weight) OVER (PARTITION BY i.kind) AS share FROM t.item i"),
    ("either", "SELECT i.id, i.raw::int AS n FROM t.item i UNION ALL SELECT g.id, length(g.name) FROM t.tag g"),
];

async fn items(url: &str) -> anyhow::Result<Session> {
    let session = lockstep_testkit::connect(url).await?;
    session.batch_execute(SCHEMA).await?;
    Ok(session)
}

fn setup(url: &str, target: Option<String>, extra: &str) -> Setup {
    let projections: Vec<(&str, &str, &str)> = PROJECTIONS.iter().map(|(name, sql)| (*name, *sql, extra)).collect();
    let mut setup = Setup::new(url, &projections);
    setup.target_url = target;
    setup
}

/// The keys in quarantine, as `projection:key:sqlstate`.
const QUARANTINED: &str = "SELECT coalesce(string_agg(projection || ':' || array_to_string(key, ',') || ':' || sqlstate, ' '
    ORDER BY projection, key), '') FROM lockstep.quarantine";

async fn quarantined(target: &Session, expected: &str) -> anyhow::Result<()> {
    if let Err(error) = until(target, &format!("SELECT ({QUARANTINED}) = '{expected}'")).await {
        let found = one(target, QUARANTINED).await?;
        return Err(error.context(format!("expected {expected}, found {found:?}")));
    }
    let all_live: bool = target.query_one("SELECT bool_and(state = 'live') FROM lockstep.projection", &[]).await?.get(0);
    anyhow::ensure!(all_live, "a key that fails is no fault of its projection");
    Ok(())
}

async fn one(target: &Session, sql: &str) -> anyhow::Result<Option<String>> {
    Ok(target.query_opt(sql, &[]).await?.and_then(|row| row.get(0)))
}

/// Breaks a row in every way, changes others in the same transactions, and mends it.
async fn break_and_mend(setup: &Setup, remove: bool) -> anyhow::Result<()> {
    let source = items(&setup.source_url).await?;
    let target = lockstep_testkit::connect(setup.target_url()).await?;
    let mut projector = Projector::start(setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    source
        .batch_execute(
            "BEGIN; UPDATE t.item SET raw = 'abc' WHERE id = 7; UPDATE t.item SET raw = '1000' WHERE id = 8; COMMIT;
             BEGIN; INSERT INTO t.tag VALUES (900, 9, 'two'), (901, 10, 'gone soon'); DELETE FROM t.tag WHERE id = 10; COMMIT;
             BEGIN; UPDATE t.item SET weight = -9 WHERE id = 1; UPDATE t.item SET weight = 2 WHERE id = 3; COMMIT",
        )
        .await?;
    projector.catch_up().await?;
    quarantined(
        &target,
        "accumulated:7:22P02 cast:7:22P02 contributed:7:22P02 either:7:22P02 partition:k1:22012 ratio:k1:22012 scalar:9:21000",
    )
    .await?;
    let message = one(&target, "SELECT message FROM lockstep.quarantine WHERE projection = 'scalar'").await?;
    assert_eq!(message.as_deref(), Some("more than one row returned by a subquery used as an expression"));
    // A definition that fails as a whole does not keep the others from being verified.
    let (_, output, errors) = Program::new(setup)?.run(&["verify", "--json", "cast", "total"])?;
    let verified: serde_json::Value =
        serde_json::from_str(&output).map_err(|error| anyhow::anyhow!("{error}: {output}{errors}"))?;
    assert_eq!(verified[1]["outcome"], "equal", "{output}");
    // The rest went on.
    assert_eq!(one(&target, "SELECT n::text FROM read_model.cast WHERE id = 8").await?.as_deref(), Some("1000"));
    assert_eq!(one(&target, "SELECT tag FROM read_model.scalar WHERE id = 10").await?.as_deref(), Some("gone soon"));
    assert_eq!(one(&target, "SELECT share::text FROM read_model.ratio WHERE kind = 'k3'").await?.as_deref(), Some("9"));
    assert_eq!(one(&target, "SELECT share::text FROM read_model.partition WHERE id = 13").await?.as_deref(), Some("9"));
    // k2 holds 2 + 7 + 12 + … + 47: the last good 7 stays in it, or goes.
    let kept = |keep: &'static str| if remove { None } else { Some(keep) };
    assert_eq!(one(&target, "SELECT n::text FROM read_model.cast WHERE id = 7").await?.as_deref(), kept("7"));
    assert_eq!(one(&target, "SELECT tag FROM read_model.scalar WHERE id = 9").await?.as_deref(), kept("tag 9"));
    assert_eq!(one(&target, "SELECT share::text FROM read_model.ratio WHERE kind = 'k1'").await?.as_deref(), kept("10"));
    assert_eq!(one(&target, "SELECT share::text FROM read_model.partition WHERE id = 6").await?.as_deref(), kept("10"));
    let sum = if remove { "238" } else { "245" };
    for name in ["contributed", "accumulated"] {
        let found = one(&target, &format!("SELECT n::text FROM read_model.{name} WHERE kind = 'k2'")).await?;
        assert_eq!(found.as_deref(), Some(sum), "{name}");
    }
    // The one group of all fails, and an unknown number of rows are what is refreshed when the table is emptied.
    source.batch_execute("DELETE FROM t.item WHERE id > 40").await?;
    projector.catch_up().await?;
    until(
        &target,
        "SELECT count(*) = 1 FROM lockstep.quarantine WHERE projection = 'total' AND key = '{}' AND sqlstate = '22012'",
    )
    .await?;
    assert_eq!(one(&target, "SELECT ratio::text FROM read_model.total").await?.as_deref(), kept("100"));
    // What fails is known to the next start, and everything can be refreshed around it.
    projector.stop().await?;
    source
        .batch_execute(
            "UPDATE t.item SET raw = '7' WHERE id = 7; UPDATE t.item SET raw = 'x' WHERE id = 21;
                        UPDATE t.item SET weight = -7 WHERE id = 1",
        )
        .await?;
    target.batch_execute("UPDATE lockstep.projection SET state = 'faulted'").await?;
    let mut projector = Projector::start(setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    quarantined(
        &target,
        "accumulated:21:22P02 cast:21:22P02 contributed:21:22P02 either:21:22P02 partition:k1:22012 ratio:k1:22012 scalar:9:21000 total::22012",
    )
    .await?;
    // Mended, they come back at once.
    source
        .batch_execute("UPDATE t.item SET raw = '21' WHERE id = 21; DELETE FROM t.tag WHERE id = 900; UPDATE t.item SET weight = 5 WHERE id = 1;
                        DELETE FROM t.item WHERE id = 20")
        .await?;
    projector.catch_up().await?;
    quarantined(&target, "").await?;
    assert_equal(setup).await?;
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_row_stays() -> anyhow::Result<()> {
    let cluster = cluster()?;
    break_and_mend(&setup(&cluster.url("postgres"), None, ""), false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn or_the_row_goes_in_another_database_too() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let admin = lockstep_testkit::connect(&cluster.url("postgres")).await?;
    admin.batch_execute("CREATE DATABASE models").await?;
    break_and_mend(&setup(&cluster.url("postgres"), Some(cluster.url("models")), "on_error = \"remove\""), true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_unique_index_refuses() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE UNIQUE INDEX ON coded (code);\n")?;
    let extra = format!("indexes = \"{}\"", indexes.display());
    let setup = Setup::new(&cluster.url("postgres"), &[("coded", "SELECT i.id, i.code FROM t.item i", &extra)]);
    let session = items(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    // 1 takes the code of 2, while 3 and 4 swap theirs and 5 gets a new one.
    session
        .batch_execute(
            "UPDATE t.item SET code = CASE id WHEN 1 THEN 'c2' WHEN 3 THEN 'c4' WHEN 4 THEN 'c3' WHEN 5 THEN 'new' ELSE code END WHERE id <= 5",
        )
        .await?;
    projector.catch_up().await?;
    quarantined(&session, "coded:1:23505").await?;
    let codes = one(&session, "SELECT string_agg(code, ' ' ORDER BY id) FROM read_model.coded WHERE id <= 5").await?;
    assert_eq!(codes.as_deref(), Some("c1 c2 c4 c3 new"));
    let program = Program::new(&setup)?;
    let (status, output, errors) = program.run(&["quarantine"])?;
    assert!(status == 0 && output.contains("23505") && output.contains("t.item"), "{status} {output} {errors}");
    let (status, output, errors) = program.run(&["verify", "coded"])?;
    assert!(status == 1 && output.contains("1 of its keys are in quarantine"), "{status} {output} {errors}");
    let (status, output, errors) = program.run(&["quarantine", "retry", "coded"])?;
    assert!(status == 1 && output.contains("23505"), "{status} {output} {errors}");
    // The other one makes room: though nothing happens to row 1, it is tried again.
    session.batch_execute("UPDATE t.item SET code = 'elsewhere' WHERE id = 2").await?;
    projector.catch_up().await?;
    quarantined(&session, "").await?;
    let (status, output, errors) = program.run(&["quarantine", "retry"])?;
    assert!(status == 0 && output.contains("No key is in quarantine"), "{status} {output} {errors}");
    projector.is_equal(&setup).await?;
    let (status, _, errors) = program.run(&["quarantine", "list", "nothing"])?;
    assert!(status == 1 && errors.contains("there is no projection nothing"), "{status} {errors}");
    projector.stop().await?;
    let (status, _, errors) = program.run(&["quarantine", "retry"])?;
    assert!(status == 1 && errors.contains("no projector runs"), "{status} {errors}");
    Ok(())
}

/// A condition that fails for one row is not evaluated for it when others are asked for; small tables are read as a whole otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_does_not_take_good_ones_along() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("filtered", "SELECT i.id, i.code FROM t.item i WHERE 10 / i.weight > 0", ""),
            ("grouped", "SELECT i.kind, count(*) AS n FROM t.item i WHERE 10 / i.weight > 0 GROUP BY i.kind", ""),
            ("having", "SELECT i.kind, count(*) AS n FROM t.item i GROUP BY i.kind HAVING 100 / sum(i.weight) <> 5", ""),
        ],
    );
    let session = items(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session
        .batch_execute("ANALYZE; UPDATE t.item SET weight = 0 WHERE id = 1; UPDATE t.item SET weight = -8 WHERE id = 2")
        .await?;
    projector.catch_up().await?;
    let bad = "filtered:1:22012 grouped:1:22012 having:k2:22012";
    session
        .batch_execute("UPDATE t.item SET weight = -9 + 1 WHERE id = 2; UPDATE t.item SET weight = weight WHERE id = 2")
        .await?;
    for change in [
        "UPDATE t.item SET weight = -8 WHERE id = 2",
        "UPDATE t.item SET code = 'new', kind = 'k3' WHERE id IN (10, 20)",
        "UPDATE t.item SET kind = 'k4' WHERE id IN (15, 25)",
        "DELETE FROM t.item WHERE id = 30",
    ] {
        session.batch_execute(change).await?;
        projector.catch_up().await?;
    }
    let sum: i64 = session.query_one("SELECT sum(weight) FROM t.item WHERE kind = 'k2'", &[]).await?.get(0);
    session.batch_execute(&format!("UPDATE t.item SET weight = weight - {sum} WHERE id = 2")).await?;
    projector.catch_up().await?;
    quarantined(&session, bad).await?;
    session.batch_execute("UPDATE t.item SET weight = 1 WHERE id IN (1, 2)").await?;
    projector.catch_up().await?;
    quarantined(&session, "").await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_among_a_hundred_thousand_while_building() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("cast", "SELECT i.id, i.raw::int AS n FROM t.item i", ""),
            ("by_kind", "SELECT i.kind, sum(i.raw::int) AS n FROM t.item i GROUP BY i.kind", ""),
        ],
    );
    let session = items(&setup.source_url).await?;
    session
        .batch_execute(
            "INSERT INTO t.item SELECT n, 'k' || n % 50, 'c' || n, CASE WHEN n % 1009 = 0 THEN 'poison' ELSE '1' END
             FROM generate_series(51, 100000) n",
        )
        .await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let exactly = "SELECT array_agg(key[1]::int ORDER BY key[1]::int) =
        ARRAY(SELECT n FROM generate_series(1009, 100000, 1009) n) FROM lockstep.quarantine WHERE projection = ";
    for name in ["cast", "by_kind"] {
        let found: Option<bool> = session.query_one(&format!("{exactly}'{name}'"), &[]).await?.get(0);
        anyhow::ensure!(found == Some(true), "exactly the poisoned rows are set aside in {name}");
    }
    let rows: i64 = session.query_one("SELECT count(*) FROM read_model.cast", &[]).await?.get(0);
    assert_eq!(rows, 100_000 - 99);
    session.batch_execute("UPDATE t.item SET raw = '1' WHERE raw = 'poison'").await?;
    projector.catch_up().await?;
    quarantined(&session, "").await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strikes_too_many_keys_is_a_fault() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup =
        Setup::new(&cluster.url("postgres"), &[("cast", "SELECT o.id, (o.extra ->> 'n')::integer AS n FROM shop.orders o", "")]);
    let session = shop(&setup.source_url).await?;
    let options = RefreshOptions { quarantined_max: 3, ..RefreshOptions::default() };
    let mut projector = Projector::start(&setup, None, options).await?;
    projector.catch_up().await?;
    session.batch_execute("UPDATE shop.orders SET extra = '{\"n\": \"abc\"}' WHERE id <= 5").await?;
    until(
        &session,
        "SELECT state = 'faulted' AND sqlstate = '22P02' AND reason LIKE 'more than 3 keys fail%' FROM lockstep.projection",
    )
    .await?;
    session.batch_execute("UPDATE shop.orders SET extra = '{}' WHERE id <= 5").await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

/// A new version that lacks a good row of the old one does not take its place, until the row is mended or given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_does_not_take_last_good_rows_away() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = setup(&cluster.url("postgres"), None, "");
    setup.projections.truncate(1);
    let session = items(&setup.source_url).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute("UPDATE t.item SET raw = 'bad' WHERE id = 7").await?;
    quarantined(&session, "cast:7:22P02").await?;
    projector.stop().await?;
    setup.projections[0].1 = "SELECT i.id, i.raw::int AS n, i.kind, i.code FROM t.item i".to_owned();
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT hint LIKE '%1 keys fail there%' FROM lockstep.projection WHERE name = 'cast'").await?;
    let kept: i64 = session.query_one("SELECT count(*) FROM read_model.cast WHERE id = 7", &[]).await?.get(0);
    assert_eq!(kept, 1, "its last good row stays");
    let (_, output, _) = Program::new(&setup)?.run(&["status"])?;
    assert!(output.contains("the new version waits beside it"), "{output}");
    session.batch_execute("UPDATE t.item SET raw = '77' WHERE id = 7").await?;
    until(&session, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'read_model.cast'::regclass AND attname = 'code')")
        .await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}
