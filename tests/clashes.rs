//! Rows that unique indexes and exclusion constraints of a read model refuse: exactly those that clash are set aside, and the others keep
//! their pace.

use std::time::{Duration, Instant};

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster_with, connect};
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use crate::harness::{Projector, Setup, assert_equal, until};

/// Rows that swap their codes without a pause, among these ids.
struct Swapper {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<anyhow::Result<u64>>,
}

impl Swapper {
    fn start(url: &str, ids: std::ops::Range<i32>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let url = url.to_owned();
        let task = tokio::spawn(async move {
            let session = connect(&url).await?;
            let mut swaps = 0;
            while !*stopped.borrow() {
                let (one, other) = (rand::random_range(ids.clone()), rand::random_range(ids.clone()));
                session
                    .execute(
                        "UPDATE t.product AS p SET sku = q.sku FROM t.product AS q
                         WHERE (p.id, q.id) IN (($1::int, $2::int), ($2, $1)) AND p.id <> q.id",
                        &[&one, &other],
                    )
                    .await?;
                swaps += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(swaps)
        });
        Self { stop, task }
    }

    async fn stop(self) -> anyhow::Result<u64> {
        self.stop.send_replace(true);
        self.task.await?
    }
}

/// How long until changes of rows that have nothing to do with a clash are seen, sorted.
async fn latencies(
    session: &Session,
    changes: u32,
    mut between: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    let mut seen = Vec::new();
    for change in 0..changes {
        let id = 1_000 + i32::try_from(change % 3_000)?;
        let price: i32 =
            session.query_one("UPDATE t.product SET price = price + 1 WHERE id = $1 RETURNING price", &[&id]).await?.get(0);
        let began = Instant::now();
        loop {
            let row = session.query_one("SELECT price FROM read_model.product WHERE id = $1", &[&id]).await?;
            if row.get::<_, i32>(0) == price {
                break;
            }
            anyhow::ensure!(began.elapsed() < crate::harness::PATIENCE, "a change of row {id} is not seen");
        }
        seen.push(began.elapsed());
        between().await?;
    }
    seen.sort();
    Ok(seen)
}

const QUARANTINED: &str = "SELECT coalesce(string_agg(key[1], ' ' ORDER BY key[1]::int), '') FROM lockstep.quarantine";

#[tokio::test(flavor = "multi_thread")]
async fn others_keep_their_pace_while_keys_clash() -> anyhow::Result<()> {
    let cluster = cluster_with(&["log_statement=all", "log_line_prefix=%a: "])?;
    let directory = tempfile::tempdir()?;
    let indexes = directory.path().join("indexes.sql");
    std::fs::write(&indexes, "CREATE UNIQUE INDEX ON product (sku);\n")?;
    let extra = format!("indexes = \"{}\"", indexes.display());
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[("product", "SELECT p.id, p.sku, p.price, 1 / (p.price + 1) AS share FROM t.product p", &extra)],
    );
    let session = connect(&setup.source_url).await?;
    session
        .batch_execute(
            "CREATE SCHEMA t; CREATE TABLE t.product (id int PRIMARY KEY, sku text, price int);
             INSERT INTO t.product SELECT n, 'sku ' || n, n FROM generate_series(1, 4200) n; ANALYZE t.product",
        )
        .await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let swapper = Swapper::start(&setup.source_url, 4..40);
    let without = latencies(&session, 200, async || Ok(())).await?;
    // 1 takes the code of 4, and 2 that of 5, which go on swapping theirs with others.
    session
        .batch_execute(
            "UPDATE t.product SET sku = (SELECT q.sku FROM t.product q WHERE q.id = product.id + 3) WHERE id IN (1, 2)",
        )
        .await?;
    until(&session, "SELECT count(*) > 0 FROM lockstep.quarantine").await?;
    let with = latencies(&session, 200, async || {
        let found: String = session.query_one(QUARANTINED, &[]).await?.get(0);
        anyhow::ensure!(found == "1 2", "in quarantine: {found}");
        Ok(())
    })
    .await?;
    for (name, seen) in [("without", &without), ("with", &with)] {
        println!("{name} quarantine, seen after: median {:?}, p95 {:?}, longest {:?}", seen[100], seen[190], seen[199]);
    }
    session.batch_execute("UPDATE t.product SET sku = 'own ' || id WHERE id IN (1, 2)").await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) = 0 FROM lockstep.quarantine").await?;
    println!("{} swaps", swapper.stop().await?);
    projector.is_equal(&setup).await?;
    // What it costs, apart from the time.
    let cost = async |break_rows: &str| {
        session.batch_execute(break_rows).await?;
        latencies(&session, 20, async || Ok(())).await?;
        let log = std::fs::read_to_string(cluster.directory().join("log"))?;
        let batches = "SELECT batches FROM lockstep.checkpoint";
        let before: i64 = session.query_one(batches, &[]).await?.get(0);
        latencies(&session, 100, async || Ok(())).await?;
        let after: i64 = session.query_one(batches, &[]).await?.get(0);
        let whole = std::fs::read_to_string(cluster.directory().join("log"))?;
        let ours = whole[log.len()..].lines().filter(|line| line.starts_with("lockstep default: "));
        let (failed, done): (Vec<&str>, Vec<&str>) = ours
            .filter(|line| [" statement: ", " execute ", "ERROR"].iter().any(|word| line.contains(word)))
            .partition(|line| line.contains("ERROR"));
        anyhow::ensure!(failed.is_empty(), "nothing is tried that must fail: {failed:?}");
        anyhow::Ok(f64::from(u32::try_from(done.len())?) / f64::from(i32::try_from(after - before)?))
    };
    let usual = cost("SELECT").await?;
    let clashing = cost("UPDATE t.product SET sku = 'sku 5' WHERE id = 1").await?;
    let failing = cost("UPDATE t.product SET sku = 'own', price = -1 WHERE id = 1").await?;
    println!("statements of a batch: {usual:.1}, while a key clashes {clashing:.1}, while one fails {failing:.1}");
    assert!(clashing <= 2.0 * usual && failing <= 2.0 * usual, "{usual} {clashing} {failing}");
    projector.stop().await?;
    Ok(())
}

/// What indexes are over, and what makes other keys fail.
const SCHEMA: &str = "CREATE SCHEMA t;
    CREATE TABLE t.item (id int PRIMARY KEY, owner int, sku text, lane int, at int, ok int NOT NULL DEFAULT 1);
    INSERT INTO t.item SELECT n, n, 'Sku ' || n, n, n * 10 FROM generate_series(1, 40) n;";

/// Every kind of projection. Rows are known by `id`, those of windows by their partition.
const PROJECTIONS: &[(&str, &str)] = &[
    ("rows", "SELECT i.id, i.sku, i.lane, i.at FROM t.item i"),
    ("divided", "SELECT i.id, i.sku, i.lane, i.at, 1 / i.ok AS one FROM t.item i"),
    (
        "groups",
        "SELECT i.owner AS id, max(i.lane)::text AS sku, max(i.lane) AS lane, max(i.at) AS at FROM t.item i GROUP BY i.owner",
    ),
    (
        "recomputed",
        "SELECT i.owner AS id, string_agg(i.sku, ' ' ORDER BY i.id) AS sku, max(i.lane) AS lane, max(i.at) AS at
        FROM t.item i GROUP BY i.owner",
    ),
    ("windows", "SELECT i.id, i.sku, i.lane, i.at, count(*) OVER (PARTITION BY i.owner) AS n FROM t.item i"),
    ("fanned", "SELECT i.id, i.sku, i.lane, i.at, n.n FROM t.item i, unnest(ARRAY[1]) AS n (n)"),
    ("whole", "SELECT i.id, i.sku, i.lane, i.at, (SELECT count(*) FROM t.item) AS n FROM t.item i"),
    ("ranged", "SELECT i.id, i.sku, i.lane, i.at FROM t.item i"),
    ("deferred", "SELECT i.id, i.sku, i.lane, i.at FROM t.item i"),
];

/// The usual indexes that refuse rows: over an expression and with a condition, with NULLs that differ, and with NULLs that do not.
fn every_kind(url: &str, directory: &std::path::Path, version: i32, extra: &str) -> anyhow::Result<Setup> {
    let mut setup = Setup::new(url, &[]);
    let nulls = if version >= 150_000 { "NULLS NOT DISTINCT" } else { "" };
    for (name, sql) in PROJECTIONS {
        let file = directory.join(format!("{name}.sql"));
        let unique = format!(
            "CREATE UNIQUE INDEX ON {name} (lower(sku)) WHERE lane < 1000; CREATE UNIQUE INDEX ON {name} (at);
             CREATE UNIQUE INDEX ON {name} (at, (lane % 1000)) INCLUDE (sku) {nulls};"
        );
        std::fs::write(&file, if ["ranged", "deferred"].contains(name) { String::new() } else { unique })?;
        let key = if ["whole", "fanned"].contains(name) { "key = [\"id\"]" } else { "" };
        let more = format!("{key}\nindexes = \"{}\"\n{extra}", file.display());
        setup.projections.push(((*name).to_owned(), (*sql).to_owned(), more));
    }
    Ok(setup)
}

/// What only somebody by hand adds to a read model.
const BY_HAND: &str = "ALTER TABLE read_model.ranged ADD EXCLUDE USING gist (int4range(at, at + 5) WITH &&) WHERE (lane < 1000);
    ALTER TABLE read_model.deferred ADD UNIQUE (sku) DEFERRABLE INITIALLY DEFERRED";

/// Two rows clash in a projection.
fn clash(name: &str) -> &'static str {
    match name {
        "ranged" => "int4range(a.at, a.at + 5) && int4range(b.at, b.at + 5) AND a.lane < 1000 AND b.lane < 1000",
        "deferred" => "a.sku = b.sku",
        _ => {
            "lower(a.sku) = lower(b.sku) AND a.lane < 1000 AND b.lane < 1000 OR a.at = b.at
                OR a.at IS NULL AND b.at IS NULL AND current_setting('server_version_num')::int >= 150000
                   AND a.lane % 1000 IS NOT DISTINCT FROM b.lane % 1000"
        }
    }
}

/// Each key in quarantine clashes with a row of the table or with another of its own; every other row is what the query says, and none is
/// missing. Returns how many keys clash.
async fn exactly_those_that_clash(source: &Session, target: &Session, setup: &Setup) -> anyhow::Result<i64> {
    let mut total = 0;
    for (name, sql, _) in &setup.projections {
        let sql = if name == "divided" { format!("{sql} WHERE i.ok <> 0") } else { sql.clone() };
        // Both sides are looked at in the target, where the quarantine is.
        let want: Vec<String> =
            source.query(&format!("SELECT ROW(w.*)::text FROM ({sql}) AS w"), &[]).await?.iter().map(|row| row.get(0)).collect();
        let owners: Vec<i32> =
            source.query("SELECT owner FROM t.item ORDER BY id", &[]).await?.iter().map(|row| row.get(0)).collect();
        let ids: Vec<i32> = source.query("SELECT id FROM t.item ORDER BY id", &[]).await?.iter().map(|row| row.get(0)).collect();
        let of = |row: &str| {
            let by = if name == "windows" {
                format!("coalesce((SELECT o.owner FROM owners o WHERE o.id = {row}.id), -1)")
            } else {
                format!("{row}.id")
            };
            format!("{by}::text")
        };
        let checks = format!(
            "WITH owners AS (SELECT * FROM unnest($2::int[], $3::int[]) AS o (id, owner)),
                  want AS (SELECT (text::read_model.{name}).* FROM unnest($1::text[]) AS text),
                  held AS (SELECT key[1] AS key, sqlstate FROM lockstep.quarantine WHERE projection = '{name}')
             SELECT coalesce((SELECT string_agg(x::text, ' ') FROM (SELECT * FROM want EXCEPT ALL SELECT * FROM read_model.{name}) AS x
                              WHERE {} NOT IN (SELECT key FROM held)), ''),
                    coalesce((SELECT string_agg(x::text, ' ') FROM (SELECT * FROM read_model.{name} EXCEPT ALL SELECT * FROM want) AS x
                              WHERE {} NOT IN (SELECT key FROM held)), ''),
                    coalesce((SELECT string_agg(h.key, ' ') FROM held AS h
                              WHERE h.sqlstate <> '22012' AND NOT EXISTS (
                                  SELECT FROM want AS a
                                  JOIN (SELECT * FROM read_model.{name} UNION ALL SELECT * FROM want AS w WHERE {} = h.key) AS b
                                      ON b.id <> a.id AND ({})
                                  WHERE {} = h.key)), ''),
                    (SELECT count(*) FROM held WHERE sqlstate <> '22012'),
                    (SELECT state FROM lockstep.projection WHERE name = '{name}')",
            of("x"),
            of("x"),
            of("w"),
            clash(name),
            of("a")
        );
        let row = target.query_one(&checks, &[&want, &ids, &owners]).await?;
        let (missing, wrong, needless): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        anyhow::ensure!(missing.is_empty(), "{name} lacks {missing}");
        anyhow::ensure!(wrong.is_empty(), "{name} has {wrong}");
        anyhow::ensure!(needless.is_empty(), "{name}: {needless} clash with nothing");
        anyhow::ensure!(row.get::<_, &str>(4) == "live", "{name} is no longer live");
        total += row.get::<_, i64>(3);
    }
    Ok(total)
}

/// One transaction of what makes rows clash, and what ends it.
fn random_change(random: &mut impl rand::Rng) -> String {
    let mut id = || random.random_range(1..=44);
    let (one, two, three) = (id(), id(), id());
    match random.random_range(0..16) {
        0..=2 => {
            format!("UPDATE t.item AS i SET sku = (SELECT max(upper(o.sku)) FROM t.item o WHERE o.id = {two}) WHERE id = {one}")
        }
        3 => format!("UPDATE t.item AS i SET at = (SELECT max(o.at) FROM t.item o WHERE o.id = {two}) WHERE id = {one}"),
        4..=6 => format!(
            "UPDATE t.item AS i SET sku = o.sku, at = o.at, lane = o.lane FROM t.item o
             WHERE (i.id, o.id) IN (({one}, {two}), ({two}, {three}), ({three}, {one}))"
        ),
        7 => format!("UPDATE t.item SET at = at + 3 WHERE id = {one}"),
        8 => format!("UPDATE t.item SET at = NULL WHERE id IN ({one}, {two})"),
        9 => format!("UPDATE t.item SET lane = (lane + 1000) % 2000 WHERE id IN ({one}, {two})"),
        10 => format!("UPDATE t.item SET owner = {two} WHERE id = {one}"),
        11 => format!("DELETE FROM t.item WHERE id = {one}"),
        12 => format!("INSERT INTO t.item SELECT {one}, {two}, 'SKU {three}', {one}, {one} * 10 ON CONFLICT DO NOTHING"),
        13 => format!("UPDATE t.item SET ok = 1 - ok WHERE id = {one}"),
        14 => format!("UPDATE t.item SET sku = 'new ' || id, at = id * 10, owner = id WHERE id IN ({one}, {two}, {three})"),
        _ => format!(
            "UPDATE t.item AS i SET at = o.at, sku = o.sku FROM t.item o WHERE o.id = i.id % 40 + 1 AND i.id BETWEEN {one} AND {one} + 9"
        ),
    }
}

async fn clash_at_random(setup: &Setup, steps: u32) -> anyhow::Result<()> {
    let seed = lockstep_testkit::seed_from_environment();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (source, target) = (connect(&setup.source_url).await?, connect(setup.target_url()).await?);
    let mut projector = Projector::start(setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    target.batch_execute(BY_HAND).await?;
    let mut most = 0;
    for step in 0..steps {
        let changes: Vec<String> = (0..random.random_range(1..4)).map(|_| random_change(&mut random)).collect();
        let changes = changes.join("; ");
        source.batch_execute(&format!("BEGIN; {changes}; COMMIT")).await?;
        projector.catch_up().await?;
        let found = exactly_those_that_clash(&source, &target, setup).await;
        most = most.max(found.map_err(|error| error.context(format!("seed {seed}, step {step}: {changes}")))?);
        if step % 20 == 19 {
            // All of it at once, around those that clash.
            target.batch_execute("UPDATE lockstep.projection SET state = 'degraded'").await?;
            projector.stop().await?;
            projector = Projector::start(setup, None, RefreshOptions::default()).await?;
            projector.catch_up().await?;
            let found = exactly_those_that_clash(&source, &target, setup).await;
            found.map_err(|error| error.context(format!("seed {seed}, started again after step {step}")))?;
        }
    }
    println!("seed {seed}: at most {most} keys clash");
    anyhow::ensure!(most > 20, "the test makes rows clash");
    source.batch_execute("UPDATE t.item SET sku = 'own ' || id, at = id * 10, lane = id, owner = id, ok = 1").await?;
    projector.catch_up().await?;
    until(&target, "SELECT count(*) = 0 FROM lockstep.quarantine").await?;
    assert_equal(setup).await?;
    projector.stop().await?;
    Ok(())
}

async fn version(session: &Session) -> anyhow::Result<i32> {
    Ok(session.query_one("SELECT current_setting('server_version_num')::int", &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_clashes_is_set_aside() -> anyhow::Result<()> {
    let cluster = cluster_with(&[])?;
    let directory = tempfile::tempdir()?;
    let session = connect(&cluster.url("postgres")).await?;
    session.batch_execute(SCHEMA).await?;
    clash_at_random(&every_kind(&cluster.url("postgres"), directory.path(), version(&session).await?, "")?, 40).await
}

#[tokio::test(flavor = "multi_thread")]
async fn or_goes_in_another_database_too() -> anyhow::Result<()> {
    let cluster = cluster_with(&[])?;
    let directory = tempfile::tempdir()?;
    let session = connect(&cluster.url("postgres")).await?;
    session.batch_execute(SCHEMA).await?;
    session.batch_execute("CREATE DATABASE models").await?;
    let mut setup = every_kind(&cluster.url("postgres"), directory.path(), version(&session).await?, "on_error = \"remove\"")?;
    setup.target_url = Some(cluster.url("models"));
    clash_at_random(&setup, 40).await
}

/// A read model whose rows clash when its indexes are made is built around them.
#[tokio::test(flavor = "multi_thread")]
async fn what_clashes_already_is_set_aside_by_the_build() -> anyhow::Result<()> {
    let cluster = cluster_with(&[])?;
    let directory = tempfile::tempdir()?;
    let session = connect(&cluster.url("postgres")).await?;
    session.batch_execute(SCHEMA).await?;
    session
        .batch_execute(
            "INSERT INTO t.item SELECT n, n, 'Sku ' || n, n, n * 10 FROM generate_series(41, 900) n;
             UPDATE t.item SET sku = 'sku 9' WHERE id IN (7, 200, 899)",
        )
        .await?;
    let mut setup = every_kind(&cluster.url("postgres"), directory.path(), version(&session).await?, "")?;
    setup.projections.retain(|(name, ..)| !["ranged", "deferred"].contains(&name.as_str()));
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let found = "SELECT coalesce(string_agg(key[1], ' ' ORDER BY key[1]::int), '') FROM lockstep.quarantine WHERE projection = ";
    for (name, ..) in &setup.projections {
        let keys: String = session.query_one(&format!("{found}'{name}'"), &[]).await?.get(0);
        let expected = if name == "groups" { "" } else { "9 200 899" };
        assert_eq!(keys, expected, "{name}: the smallest key is kept");
    }
    session.batch_execute("UPDATE t.item SET sku = 'own ' || id WHERE id IN (7, 200, 899)").await?;
    projector.catch_up().await?;
    until(&session, "SELECT count(*) = 0 FROM lockstep.quarantine").await?;
    assert_equal(&setup).await?;
    projector.stop().await?;
    Ok(())
}
