//! Tables without a key (REPLICA IDENTITY FULL): rows are known by the hash of what they hold, and equal rows are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_connect::Session;
use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, cluster, connect, seed_from_environment};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Program, Progress, Projector, Setup, assert_equal, catch_up, until};

/// A log with long texts that lie outside of its rows, a keyed table, and a partitioned log whose partitions have their columns in another
/// order, and a hole.
const SCHEMA: &str = r"
    CREATE SCHEMA k;
    CREATE TABLE k.event (item integer, kind text, n numeric, body text, at timestamptz, twice integer GENERATED ALWAYS AS (item * 2) STORED);
    ALTER TABLE k.event REPLICA IDENTITY FULL;
    ALTER TABLE k.event ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE k.item (id integer PRIMARY KEY, kind text, name text);
    CREATE TABLE k.part (item integer, reg text, v integer) PARTITION BY LIST (reg);
    CREATE TABLE k.part_a PARTITION OF k.part FOR VALUES IN ('a');
    CREATE TABLE k.part_b (gone integer, v integer, reg text, item integer);
    ALTER TABLE k.part_b DROP COLUMN gone;
    ALTER TABLE k.part ATTACH PARTITION k.part_b FOR VALUES IN ('b');
    ALTER TABLE k.part REPLICA IDENTITY FULL; ALTER TABLE k.part_a REPLICA IDENTITY FULL; ALTER TABLE k.part_b REPLICA IDENTITY FULL;
    INSERT INTO k.item SELECT n, 'kind' || n % 4, 'item ' || n FROM generate_series(1, 20) n;
    INSERT INTO k.event SELECT n % 25, 'kind' || n % 5, (ARRAY[1.0, 1.00, 2])[1 + n % 3], CASE n % 10 WHEN 0 THEN repeat(chr(97 + n % 3), 5000) ELSE 'short' END, '2026-01-01'
        FROM generate_series(1, 300) n;
    INSERT INTO k.part SELECT n % 25, (ARRAY['a', 'b'])[1 + n % 2], n % 3 FROM generate_series(1, 60) n;";

const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("events", "SELECT e.item, e.kind, e.n, e.at, length(e.body) AS size, e.twice FROM k.event e", ""),
    ("of_kinds", "SELECT e.kind, count(*) AS events, sum(e.n) AS total, max(e.item) AS last FROM k.event e GROUP BY e.kind", ""),
    ("named", "SELECT i.name, e.kind, e.n FROM k.event e LEFT JOIN k.item i ON i.id = e.item", ""),
    ("items", "SELECT i.id, i.name, e.n, e.twice FROM k.item i LEFT JOIN k.event e ON e.item = i.id AND e.kind <> 'kind1'", ""),
    ("spelled", "SELECT i.id, e.kind FROM k.item i JOIN k.event e ON i.kind = 'kind' || (length(e.n::text) - 1)", ""),
    ("counted", "SELECT i.id, (SELECT count(*) FROM k.event e WHERE e.kind = i.kind) AS events FROM k.item i", ""),
    ("silent", "SELECT i.id FROM k.item i WHERE NOT EXISTS (SELECT 1 FROM k.event e WHERE e.item = i.id)", ""),
    ("first", "SELECT DISTINCT ON (e.item) e.item, e.kind, e.n FROM k.event e ORDER BY e.item, e.kind, e.n DESC", ""),
    ("both", "SELECT e.kind, p.reg, p.v FROM k.event e JOIN k.part p ON p.item = e.item", ""),
    ("parts", "SELECT p.reg, count(*) AS n, sum(p.v) AS v FROM k.part p GROUP BY p.reg", ""),
];

fn random_statement(random: &mut StdRng) -> String {
    let (item, other, kind) = (random.random_range(0..25), random.random_range(1..=20), random.random_range(0..5));
    let (n, long) = (["1.0", "1.00", "2", "NULL"][random.random_range(0..4)], 5000 / random.random_range(1..9) / 4000 * 5000);
    let reg = ["a", "b"][random.random_range(0..2)];
    // One of equal rows.
    let one = |table: &str, condition: &str| {
        format!("ctid = (SELECT min(ctid) FROM {table} WHERE {condition} AND tableoid = e.tableoid)")
    };
    match random.random_range(0..14) {
        0..3 => format!("INSERT INTO k.event VALUES ({item}, 'kind{kind}', {n}, repeat('x', {long}), '2026-01-01')"),
        3 => format!(
            "INSERT INTO k.event SELECT (e).item, (e).kind, (e).n, (e).body, (e).at FROM (SELECT e FROM k.event e WHERE item = {item} LIMIT 1) s"
        ),
        4 => format!("UPDATE k.event AS e SET n = {n} WHERE {}", one("k.event", &format!("item = {item}"))),
        5 => format!(
            "UPDATE k.event AS e SET item = nullif({item}, 7), at = at + interval '1 hour' WHERE {}",
            one("k.event", &format!("kind = 'kind{kind}'"))
        ),
        6 => format!("UPDATE k.event SET kind = 'kind{kind}' WHERE item = {item}"),
        7 => format!("DELETE FROM k.event AS e WHERE {}", one("k.event", &format!("item = {item}"))),
        8 => format!("UPDATE k.item SET kind = 'kind{kind}', name = 'item {item}' WHERE id = {other}"),
        9 => format!("DELETE FROM k.item WHERE id = {other}; INSERT INTO k.item VALUES ({other}, NULL, 'again')"),
        10 => format!("INSERT INTO k.part VALUES ({item}, '{reg}', {kind})"),
        11 => format!("UPDATE k.part AS e SET reg = '{reg}', v = v + 1 WHERE {}", one("k.part", &format!("item = {item}"))),
        12 => format!("DELETE FROM k.part AS e WHERE {}", one("k.part", &format!("item = {item}"))),
        _ => format!("UPDATE k.event SET item = item WHERE item = {item}"),
    }
}

/// Writes until told to stop, several statements in a transaction, some of which are rolled back.
async fn write(url: String, seed: u64, commits: Arc<AtomicU64>, until: u64) -> anyhow::Result<()> {
    let session = connect(&url).await?;
    let mut random = StdRng::seed_from_u64(seed);
    while commits.load(Ordering::Relaxed) < until {
        let statements: Vec<String> = (0..random.random_range(1..4)).map(|_| random_statement(&mut random)).collect();
        let end = if random.random_range(0..8) > 0 { "COMMIT" } else { "ROLLBACK" };
        match session.batch_execute(&format!("BEGIN; {}; {end}", statements.join("; "))).await {
            Ok(()) => _ = commits.fetch_add(1, Ordering::Relaxed),
            // Two that wait for each other, or add one key.
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("40") || code.code() == "23505") => {
                session.batch_execute("ROLLBACK").await?;
            }
            Err(error) => anyhow::bail!("{}: {}", statements.join("; "), lockstep_connect::describe(&error)),
        }
    }
    Ok(())
}

fn writers(url: &str, seed: u64, commits: &Arc<AtomicU64>, until: u64) -> tokio::task::JoinSet<anyhow::Result<()>> {
    (0..3).map(|n| write(url.to_owned(), seed.wrapping_add(n), commits.clone(), until)).collect()
}

async fn finished(mut writers: tokio::task::JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    Ok(())
}

/// The indexes that the plans ask for; all plans are incremental.
async fn make_indexes(setup: &Setup, session: &Session) -> anyhow::Result<()> {
    let checked = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(checked.passed(), "{}", checked.errors(false).join("\n"));
    for planned in &checked.planned {
        anyhow::ensure!(planned.plan.is_incremental(), "{}: {:?}", planned.plan.projection, planned.plan.maintenance);
        for index in planned.plan.branches().iter().flat_map(|branch| &branch.roles).flat_map(|role| &role.missing_indexes) {
            let statement = index.statement().replace(" CONCURRENTLY", "").replace(" ON ", " IF NOT EXISTS made ON ");
            // A name of its own for each, so that what several plans ask for is made once.
            let number = statement.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            session.batch_execute(&statement.replace(" made ", &format!(" made_{number} "))).await?;
        }
    }
    Ok(())
}

/// So often all projections together are compared.
const COMPARISONS: u64 = 120;

/// Equal after every batch, while several write.
async fn every_batch_is_equal(two_databases: bool, with_indexes: bool) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let mut setup = Setup::new(&source.url("postgres"), PROJECTIONS);
    setup.target_url = target.as_ref().map(|target| target.url("postgres"));
    "[[group]]\nname = \"methods\"\n".clone_into(&mut setup.preamble);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(SCHEMA).await?;
    if with_indexes {
        make_indexes(&setup, &session).await?;
    }
    let oracle = Arc::new(Oracle::strict());
    // Pages, and statements, of few rows.
    let options = RefreshOptions { page_rows_max: 250, statement_keys_max: 60, ..RefreshOptions::default() };
    let commits = Arc::new(AtomicU64::new(0));
    let mut projector = Projector::start(&setup, Some(oracle.clone()), options).await?;
    let mut progress = Progress::default();
    while oracle.total().compared < COMPARISONS {
        finished(writers(
            &setup.source_url,
            seed.wrapping_add(commits.load(Ordering::Relaxed)),
            &commits,
            commits.load(Ordering::Relaxed) + 40,
        ))
        .await?;
        anyhow::ensure!(!projector.ended(), "the projector ended: {:?}", projector.end().await);
        progress.reached(oracle.total().compared)?;
    }
    projector.catch_up().await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("{} comparisons, {} different", total.compared, total.different);
    assert_eq!(total.different, 0);
    assert_equal(&setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_equal_in_one_database() -> anyhow::Result<()> {
    every_batch_is_equal(false, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_is_equal_in_two_databases_without_indexes() -> anyhow::Result<()> {
    every_batch_is_equal(true, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_works() -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(SCHEMA).await?;
    make_indexes(&setup, &session).await?;
    let program = Program::new(&setup)?;
    let commits = Arc::new(AtomicU64::new(0));
    for failpoint in ["build_page=2*off->return", "batch_before_checkpoint=12*off->return", "batch_after_commit=12*off->return"] {
        let writers = writers(&setup.source_url, seed, &commits, u64::MAX);
        let ended = program.start(failpoint)?.wait()?;
        anyhow::ensure!(!ended.success(), "it was to abort at {failpoint}: {}", program.log());
        drop(writers);
    }
    let mut child = program.start("")?;
    let result = async {
        catch_up(&setup).await?;
        until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
        assert_equal(&setup).await
    };
    let result = result.await.map_err(|error| error.context(program.log()));
    child.kill()?;
    child.wait()?;
    result
}

/// What is made wrong by hand is found, and mended by key; a row that fails is set aside alone.
#[tokio::test(flavor = "multi_thread")]
async fn verified_repaired_and_set_aside() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    let session = connect(&setup.source_url).await?;
    session.batch_execute(SCHEMA).await?;
    let program = Program::new(&setup)?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for (name, corruption) in [
        (
            "events",
            "UPDATE lockstep.events_contribution SET g1 = -1 WHERE ctid = (SELECT min(ctid) FROM lockstep.events_contribution)",
        ),
        ("items", "DELETE FROM lockstep.items_link2 WHERE ctid = (SELECT min(ctid) FROM lockstep.items_link2)"),
        ("items", "UPDATE lockstep.items_link2 SET l1 = -1 WHERE ctid = (SELECT min(ctid) FROM lockstep.items_link2)"),
        ("spelled", "INSERT INTO lockstep.spelled_link2 SELECT k1, l1 || 'x' FROM lockstep.spelled_link2 LIMIT 1"),
        ("events", "DELETE FROM read_model.events WHERE ctid = (SELECT min(ctid) FROM read_model.events)"),
    ] {
        let changed = session.execute(corruption, &[]).await?;
        assert_eq!(changed, 1, "{corruption}");
        for (command, expected) in [("verify", 1), ("repair", 0), ("verify", 0)] {
            let (status, output, errors) = program.run(&[command, name])?;
            anyhow::ensure!(status == expected, "{command} after {corruption}: {status} {output}{errors}");
        }
    }
    assert_equal(&setup).await?;
    projector.stop().await?;
    setup.projections.push((
        "ratio".to_owned(),
        "SELECT e.kind, 100 / e.item AS share FROM k.event e WHERE e.item IS NOT NULL".to_owned(),
        String::new(),
    ));
    session.batch_execute("UPDATE k.event SET item = 1 WHERE item = 0").await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session.batch_execute("INSERT INTO k.event (item, kind) VALUES (0, 'none'), (3, 'some')").await?;
    projector.catch_up().await?;
    until(&session, "SELECT array_agg(sqlstate) = '{22012}' FROM lockstep.quarantine").await?;
    until(&session, "SELECT count(*) = 1 FROM read_model.ratio WHERE kind = 'some'").await?;
    session.batch_execute("UPDATE k.event SET item = 4 WHERE item = 0").await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) = 0 FROM lockstep.quarantine").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}

/// Columns come, go, and change their names and types, also those that no query reads.
#[tokio::test(flavor = "multi_thread")]
async fn its_columns_change() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[("bag", "SELECT b.a, b.t FROM bag b", ""), ("joined", "SELECT o.id, b.t FROM other o JOIN bag b ON b.a = o.id", "")],
    );
    let session = connect(&setup.source_url).await?;
    session
        .batch_execute(
            "CREATE TABLE bag (a integer, x integer, t text, y numeric); ALTER TABLE bag REPLICA IDENTITY FULL;
             CREATE TABLE other (id integer PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 9);
             INSERT INTO bag SELECT n % 10, n % 3, 't' || n % 4, n % 2 FROM generate_series(1, 60) n",
        )
        .await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    for change in [
        "ALTER TABLE bag ADD COLUMN z text",
        "ALTER TABLE bag ALTER x TYPE text",
        "ALTER TABLE bag DROP COLUMN y; ALTER TABLE bag RENAME COLUMN x TO w",
        "ALTER TABLE bag ALTER a TYPE bigint USING a + 1",
        "ALTER TABLE bag ADD COLUMN made integer GENERATED ALWAYS AS (a * 2) STORED",
        // Now it cannot be hashed, and then it can.
        "ALTER TABLE bag ADD COLUMN p point",
        "ALTER TABLE bag DROP COLUMN p",
        "ALTER TABLE bag ADD COLUMN id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "ALTER TABLE bag DROP COLUMN id",
    ] {
        // Rows as they were before, in one transaction with the change, and as they are then.
        session
            .batch_execute(&format!(
                "BEGIN; DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag); INSERT INTO bag (a, t) VALUES (5, 'old'); {change}; COMMIT;
                 UPDATE bag SET t = 'u' WHERE ctid = (SELECT min(ctid) FROM bag); INSERT INTO bag (a, t) VALUES (3, 'new'), (3, 'new');
                 DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag)"
            ))
            .await
            .map_err(|error| anyhow::anyhow!("{change}: {}", lockstep_connect::describe(&error)))?;
        // Whatever the look at the catalogs has found is done, and no version of old stands beside.
        let (status, output, errors) = Program::new(&setup)?.run(&["wait", "--timeout", "60s"])?;
        anyhow::ensure!(status == 0, "{change}: {output}{errors}");
        let settled = "SELECT bool_and(state = 'live') AND count(*) = 2 AND (SELECT count(*) FROM read_model.bag) = (SELECT count(*) FROM bag)
                           AND NOT EXISTS (SELECT a, t FROM bag EXCEPT ALL SELECT a, t FROM read_model.bag)
                       FROM lockstep.projection";
        until(&session, settled).await.map_err(|error| error.context(change))?;
        session.batch_execute("DELETE FROM bag WHERE t = 'new' OR ctid = (SELECT min(ctid) FROM bag)").await?;
        projector.is_equal(&setup).await.map_err(|error| error.context(change))?;
    }
    projector.stop().await?;
    Ok(())
}

/// `plan` names the index, and does not once it is there; what cannot be hashed, or does not come whole, is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_plan_says() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("bag", "SELECT b.a FROM bag b", ""),
            ("documents", "SELECT d.a FROM document d", ""),
            ("mixed", "SELECT m.id, m.v FROM mixed m", ""),
            ("family", "SELECT f.a FROM parent f", ""),
            ("child", "SELECT c.a FROM child c", ""),
        ],
    );
    let session = connect(&setup.source_url).await?;
    session
        .batch_execute(
            r#"CREATE TABLE bag (a integer, "B b" text, c integer GENERATED ALWAYS AS (a + 1) STORED); ALTER TABLE bag REPLICA IDENTITY FULL;
               CREATE TABLE document (a integer, j json); ALTER TABLE document REPLICA IDENTITY FULL;
               CREATE TABLE mixed (id integer, v integer) PARTITION BY LIST (v); ALTER TABLE mixed REPLICA IDENTITY FULL;
               CREATE TABLE mixed_a PARTITION OF mixed (PRIMARY KEY (id)) FOR VALUES IN (1);
               CREATE TABLE parent (a integer); CREATE TABLE child () INHERITS (parent);
               ALTER TABLE parent REPLICA IDENTITY FULL; ALTER TABLE child REPLICA IDENTITY FULL"#,
        )
        .await?;
    let program = Program::new(&setup)?;
    let says = |name: &str, words: &[&str]| {
        let (status, output, errors) = program.run(&["plan", name])?;
        for word in words {
            anyhow::ensure!(status == 0 && output.contains(word), "{name}, {word}: {status} {output}{errors}");
        }
        Ok(output)
    };
    let index = r#"CREATE INDEX CONCURRENTLY ON "public"."bag" ((hash_record_extended(ROW("a", "B b"), 0)));"#;
    says("bag", &["aggregate, incremental", "the hash of its rows (a, B b) is the root key", "reads all of it", index])?;
    session.batch_execute(index).await?;
    let output = says("bag", &["aggregate, incremental"])?;
    anyhow::ensure!(!output.contains("missing") && !output.contains("reads all of it"), "{output}");
    session.batch_execute("INSERT INTO bag SELECT n, n::text FROM generate_series(1, 10000) n; ANALYZE bag; SET plan_cache_mode = force_generic_plan").await?;
    let (_, output, _) = program.run(&["plan", "bag", "--sql"])?;
    assert!(
        output.contains("FROM (SELECT d.d1::\"public\".\"bag\" AS r FROM unnest($1::text[]) AS d(d1) OFFSET 0) AS dirty"),
        "{output}"
    );
    says("documents", &["whole", "its column j is of type json, which has no hash", "REPLICA IDENTITY USING INDEX"])?;
    says("mixed", &["whole", "not all of its partitions have REPLICA IDENTITY FULL"])?;
    says("family", &["whole", "inheritance family"])?;
    says("child", &["whole", "inheritance family"])?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    session
        .batch_execute(
            "INSERT INTO document VALUES (1, '{}'), (1, '{}'); DELETE FROM document WHERE ctid = (SELECT min(ctid) FROM document);
             INSERT INTO mixed VALUES (1, 1), (2, 1); UPDATE mixed SET id = id + 5; DELETE FROM mixed WHERE id = 6;
             INSERT INTO parent VALUES (1), (1); INSERT INTO child VALUES (1), (2); UPDATE parent SET a = a + 1",
        )
        .await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}
