//! Queries and schemas that broke an earlier version, each kept as a case.

use std::sync::Arc;

use lockstep_connect::Session;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, cluster, connect};

use crate::harness::{Program, Projector, Setup, assert_equal, shop, until};

const SCHEMA: &str = r#"
CREATE SCHEMA edge;
CREATE COLLATION edge.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN edge.positive AS integer CHECK (VALUE > 0);
CREATE TABLE edge.t (
    id integer PRIMARY KEY, a integer, b integer NOT NULL, body text, kind text, ref text, tags text[],
    nm text COLLATE "en-x-icu", ci text COLLATE edge.folded, dom edge.positive
);
CREATE TABLE edge.y (id integer PRIMARY KEY, score integer, cat text);
CREATE TABLE edge.code (code text COLLATE edge.folded PRIMARY KEY, label text);
CREATE TABLE edge.item (id integer PRIMARY KEY, tid integer, q integer);
CREATE TABLE edge.parted (id integer, reg text, v integer, PRIMARY KEY (id, reg)) PARTITION BY LIST (reg);
CREATE TABLE edge.parted_a PARTITION OF edge.parted FOR VALUES IN ('a');
CREATE TABLE edge.parted_b PARTITION OF edge.parted FOR VALUES IN ('b');
ALTER TABLE edge.parted_b REPLICA IDENTITY FULL;
CREATE TABLE edge.parent (id integer PRIMARY KEY, v integer);
CREATE TABLE edge.child (PRIMARY KEY (id)) INHERITS (edge.parent);
CREATE TABLE edge.generated (id integer, k integer GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY);
INSERT INTO edge.t SELECT n, 1 + n % 8, n % 3, E'line\nnumber ' || n, CASE WHEN n % 2 = 0 THEN 'num' ELSE 'FOO' END,
    CASE WHEN n % 2 = 0 THEN (1 + n % 8)::text ELSE 'abc' END, ARRAY['x', 'y' || n], (ARRAY['a', 'B', 'c', 'D'])[1 + n % 4],
    (ARRAY['Foo', 'foo', 'bar'])[1 + n % 3], 1 + n % 4 FROM generate_series(1, 40) n;
INSERT INTO edge.y SELECT n, n * 10, 'k' || n % 3 FROM generate_series(1, 8) n;
INSERT INTO edge.code VALUES ('foo', 'first'), ('NUM', 'second');
INSERT INTO edge.item SELECT n, 1 + n % 40, n FROM generate_series(1, 100) n;
INSERT INTO edge.parted SELECT n, (ARRAY['a', 'b'])[1 + n % 2], n FROM generate_series(1, 20) n;
INSERT INTO edge.parent VALUES (1, 1); INSERT INTO edge.child VALUES (2, 2);
INSERT INTO edge.generated VALUES (1), (2);
CREATE TYPE edge.pair AS (a integer, b integer);
CREATE TABLE edge.odd (id integer PRIMARY KEY, pair edge.pair, at timestamptz, day date, "lockstep:image" text, lockstep_k1 text, fresh text, dirty text, t text);
INSERT INTO edge.odd SELECT n, CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN ROW(NULL, NULL)::edge.pair ELSE ROW(n, NULL)::edge.pair END,
    CASE n % 4 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE timestamptz '2020-01-01' + n * interval '1 day' END,
    CASE n % 3 WHEN 0 THEN 'infinity'::date ELSE date '2020-01-01' + n END, 'i' || n % 3, 'k' || n % 2, 'f', 'd', 't' || n FROM generate_series(1, 12) n;
"#;

const PROJECTIONS: &[(&str, &str, &str)] = &[
    ("literal", r"SELECT t.id, replace(t.body, E'\n', '|') AS body, E'a\nb' AS lit FROM edge.t t", ""),
    ("literals", r"SELECT t.b, string_agg(t.body, E';\n' ORDER BY t.id) AS body FROM edge.t t GROUP BY t.b", ""),
    ("top", "SELECT t.id FROM edge.t t WHERE t.a IN (SELECT y.id FROM edge.y y ORDER BY y.score DESC LIMIT 3)", ""),
    ("rest", "SELECT t.id FROM edge.t t WHERE t.a IN (SELECT y.id FROM edge.y y ORDER BY y.score OFFSET 2)", ""),
    (
        "best",
        "SELECT t.id FROM edge.t t WHERE t.a IN (SELECT DISTINCT ON (y.cat) y.id FROM edge.y y ORDER BY y.cat, y.score DESC)",
        "",
    ),
    ("documents", "SELECT t.b, jsonb_agg(t ORDER BY t.id) AS docs, count(t) AS n FROM edge.t t GROUP BY t.b", ""),
    (
        "collated",
        "SELECT t.b, max(t.nm) AS top, string_agg(t.nm, ',' ORDER BY t.nm, t.id) AS names FROM edge.t t GROUP BY t.b",
        "",
    ),
    ("folded", "SELECT t.ci, count(*) AS n FROM edge.t t GROUP BY t.ci", ""),
    ("coded", "SELECT t.id, c.label FROM edge.t t LEFT JOIN edge.code c ON c.code = t.kind", ""),
    ("domains", "SELECT t.dom, count(t.dom) AS n FROM edge.t t GROUP BY t.dom", ""),
    ("pairs", "SELECT t.b, count(DISTINCT (t.kind, t.a)) AS n FROM edge.t t GROUP BY t.b", ""),
    ("tagged", "SELECT t.id, t.tags, sum(i.q) AS q FROM edge.item i JOIN edge.t t ON t.id = i.tid GROUP BY t.id", ""),
    ("quantile", "SELECT t.b, percentile_cont(t.b::float8 / 10) WITHIN GROUP (ORDER BY t.a) AS p FROM edge.t t GROUP BY t.b", ""),
    ("guarded", "SELECT t.id, y.score FROM edge.t t JOIN edge.y y ON y.id = t.ref::integer WHERE t.kind = 'num'", ""),
    ("partitioned", "SELECT p.id, p.reg, p.v FROM edge.parted p", ""),
    ("inherited", "SELECT h.id, h.v FROM edge.parent h", ""),
    ("generated", "SELECT g.k, g.id FROM edge.generated g", ""),
    // A row of NULLs is counted, though it IS NULL.
    (
        "composites",
        "SELECT o.lockstep_k1, count(o.pair) AS n, count(DISTINCT o.pair) AS different FROM edge.odd o GROUP BY o.lockstep_k1",
        "",
    ),
    ("infinite", "SELECT o.day, min(o.at) AS first, max(o.at) AS last, count(*) AS n FROM edge.odd o GROUP BY o.day", ""),
    ("endless", "SELECT o.id, o.at, o.day FROM edge.odd o WHERE o.at > now() - interval '1 day' OR o.day < CURRENT_DATE", ""),
    // Names that our own statements use.
    ("names", "SELECT o.\"lockstep:image\", o.lockstep_k1, o.fresh, o.dirty, o.t FROM edge.odd o", ""),
    (
        "names_grouped",
        "SELECT o.\"lockstep:image\" AS dirty, string_agg(o.t, ',' ORDER BY o.id) AS fresh, count(*) AS \"lockstep:copy\" FROM edge.odd o GROUP BY o.\"lockstep:image\"",
        "",
    ),
    (
        "names_inside",
        "SELECT s.lockstep_k1, s.t AS k1, sum(s.id) AS g1 FROM (SELECT o.id, o.t, o.lockstep_k1 FROM edge.odd o OFFSET 0) s GROUP BY s.lockstep_k1, s.t",
        "",
    ),
];

const CHANGES: &[&str] = &[
    r"UPDATE edge.t SET body = E'two\nlines' WHERE id < 5",
    "UPDATE edge.y SET score = 1000 WHERE id = 1",
    "UPDATE edge.y SET score = score + 1 WHERE id = 2",
    "UPDATE edge.t SET nm = 'b' WHERE id % 5 = 0; UPDATE edge.t SET ci = 'QQ' WHERE ci = 'FOO' AND id < 20",
    "UPDATE edge.code SET label = 'changed'",
    "UPDATE edge.t SET dom = dom + 1, kind = NULL WHERE id % 7 = 0",
    "UPDATE edge.t SET tags = ARRAY['z'] WHERE id = 3; UPDATE edge.t SET tags = NULL WHERE id = 4; UPDATE edge.t SET tags = '{}' WHERE id = 5",
    "DELETE FROM edge.item WHERE id < 30; UPDATE edge.t SET b = b + 1 WHERE id % 3 = 0",
    "UPDATE edge.parted SET v = v + 1; DELETE FROM edge.parted WHERE id = 4; UPDATE edge.parted SET reg = 'a' WHERE id = 3",
    "UPDATE edge.parent SET v = 9; DELETE FROM edge.child; INSERT INTO edge.child VALUES (5, 5)",
    "UPDATE edge.generated SET id = 7 WHERE id = 1; DELETE FROM edge.generated WHERE id = 2",
    "UPDATE edge.t SET id = id + 100 WHERE id IN (1, 2)",
    "UPDATE edge.odd SET pair = ROW(NULL, 1)::edge.pair WHERE id = 4; UPDATE edge.odd SET pair = NULL WHERE id = 2; UPDATE edge.odd SET at = 'infinity' WHERE id = 1",
    "UPDATE edge.odd SET day = '-infinity', \"lockstep:image\" = NULL WHERE id = 3; DELETE FROM edge.odd WHERE id = 8; UPDATE edge.odd SET lockstep_k1 = NULL WHERE id = 5",
];

/// The schema for a server: one that is built without ICU gets a plain second collation in its place.
async fn schema(session: &Session) -> anyhow::Result<String> {
    let icu: bool = session.query_one("SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'en-x-icu')", &[]).await?.get(0);
    if icu {
        return Ok(SCHEMA.to_owned());
    }
    println!("this server has no ICU: nondeterministic collations are not covered here");
    Ok(SCHEMA
        .replace("(provider = icu, locale = 'und-u-ks-level2', deterministic = false)", "FROM \"POSIX\"")
        .replace("en-x-icu", "POSIX"))
}

async fn follow(setup: &Setup, session: &Session) -> anyhow::Result<()> {
    session.batch_execute(&schema(session).await?).await?;
    let oracle = Arc::new(Oracle::strict());
    let mut projector = Projector::start(setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    projector.catch_up().await?;
    assert_equal(setup).await?;
    let target = connect(setup.target_url()).await?;
    for change in CHANGES {
        session.batch_execute(change).await?;
        projector.catch_up().await?;
        let faulted = target.query("SELECT name || ': ' || reason FROM lockstep.projection WHERE state <> 'live'", &[]).await?;
        let faulted: Vec<String> = faulted.iter().map(|row| row.get(0)).collect();
        anyhow::ensure!(faulted.is_empty(), "after {change}: {faulted:?}");
        assert_equal(setup).await.map_err(|error| error.context(*change))?;
    }
    projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_in_one_database() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), PROJECTIONS);
    follow(&setup, &connect(&setup.source_url).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_with_two_servers() -> anyhow::Result<()> {
    let (source, target) = (cluster()?, cluster()?);
    // The read models have the source's types, which must exist over there.
    let over_there = connect(&target.url("postgres")).await?;
    let types: Vec<String> = schema(&over_there)
        .await?
        .lines()
        .filter(|line| line.starts_with("CREATE") && !line.starts_with("CREATE TABLE"))
        .map(str::to_owned)
        .collect();
    over_there.batch_execute(&types.join("\n")).await?;
    let mut setup = Setup::new(&source.url("postgres"), PROJECTIONS);
    setup.target_url = Some(target.url("postgres"));
    follow(&setup, &connect(&setup.source_url).await?).await
}

/// A column that is added later has the name of an expression of the query, and of a column of a joined table.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_later_with_an_expression_s_name() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("doubled", "SELECT id, score * 2 AS double, upper(cat) AS upper FROM edge.y", ""),
            ("by_upper", "SELECT upper(cat) AS label, count(*) AS n FROM edge.y GROUP BY upper(cat)", ""),
            ("starred", "SELECT y.*, i.q FROM edge.y y JOIN edge.item i ON i.id = y.id", ""),
        ],
    );
    let session = connect(&setup.source_url).await?;
    session.batch_execute(&schema(&session).await?).await?;
    let mut projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    let added = "ALTER TABLE edge.y ADD COLUMN double integer DEFAULT 7, ADD COLUMN upper text DEFAULT 'x', ADD COLUMN label text, ADD COLUMN q integer;
        UPDATE edge.y SET score = score + 1, label = 'new', double = 8, cat = 'other' WHERE id < 4";
    session.batch_execute(added).await?;
    projector.catch_up().await?;
    let states: String = session.query_one("SELECT string_agg(DISTINCT state, ',') FROM lockstep.projection", &[]).await?.get(0);
    assert_eq!(states, "live");
    // A star means the columns of its time, here as in a view.
    let mut unchanged = setup.clone();
    unchanged.projections[2].1 = "SELECT y.id, y.score, y.cat, i.q FROM edge.y y JOIN edge.item i ON i.id = y.id".to_owned();
    assert_equal(&unchanged).await?;
    projector.stop().await?;
    Ok(())
}

/// What looks at the clock or may read what it does not name is recomputed on a schedule, through views too.
#[tokio::test(flavor = "multi_thread")]
async fn hidden_dependencies_are_whole_and_scheduled() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let session = connect(&cluster.url("postgres")).await?;
    session.batch_execute(&schema(&session).await?).await?;
    session
        .batch_execute(
            "CREATE VIEW edge.clock AS SELECT y.id, extract(epoch FROM CURRENT_TIMESTAMP) - y.score AS past FROM edge.y y;
             CREATE FUNCTION edge.price_of(integer) RETURNS integer STABLE LANGUAGE sql AS 'SELECT score FROM edge.y WHERE id = $1'",
        )
        .await?;
    let projections = [
        ("clock", "SELECT c.id, c.past FROM edge.clock c", ""),
        ("priced", "SELECT t.id, edge.price_of(t.a) AS price FROM edge.t t", ""),
    ];
    let program = Program::new(&Setup::new(&cluster.url("postgres"), &projections))?;
    let (status, output, errors) = program.run(&["plan", "--json"])?;
    assert_eq!(status, 0, "{errors}");
    let plans: serde_json::Value = serde_json::from_str(&output)?;
    for plan in plans.as_array().into_iter().flatten() {
        assert_eq!(plan["incremental"], false, "{plan}");
    }
    assert!(output.contains("which is STABLE and may read tables or the clock"), "{output}");
    Ok(())
}

/// A projection that was not configured for a while has missed changes, and one whose table was replaced as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_made_good() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = shop(&url).await?;
    let orders = ("orders", "SELECT o.id, o.status FROM shop.orders o", "");
    let regions = ("regions", "SELECT r.code, r.name FROM shop.region r", "");
    let both = Setup::new(&url, &[orders, regions]);
    let run = |setup: &Setup| -> anyhow::Result<()> {
        let (status, output, errors) = Program::new(setup)?.run(&["run", "--once"])?;
        anyhow::ensure!(status == 0, "{output}{errors}");
        Ok(())
    };
    run(&both)?;
    session
        .batch_execute("UPDATE shop.orders SET status = 'unseen' WHERE id < 10; DELETE FROM shop.orders WHERE id = 20")
        .await?;
    run(&Setup::new(&url, &[regions]))?;
    run(&both)?;
    assert_equal(&both).await?;
    session
        .batch_execute(
            "CREATE TABLE shop.region_new (code text PRIMARY KEY, name text); INSERT INTO shop.region_new VALUES ('n', 'New');
             DROP TABLE shop.region; ALTER TABLE shop.region_new RENAME TO region",
        )
        .await?;
    run(&both)?;
    assert_equal(&both).await?;
    session.batch_execute("INSERT INTO shop.region VALUES ('m', 'More')").await?;
    run(&both)?;
    assert_equal(&both).await
}

/// A build that fails starts again from nothing: rows whose roots went away meanwhile must not stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_failed_starts_again_from_nothing() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(
        &cluster.url("postgres"),
        &[
            ("numbers", "SELECT n.id, n.text::integer AS number FROM numbers n", "on_error = \"halt\""),
            ("sums", "SELECT n.id % 3 AS part, sum(n.text::integer) AS total FROM numbers n GROUP BY 1", "on_error = \"halt\""),
            ("plain", "SELECT n.id FROM numbers n", ""),
        ],
    );
    let session = connect(&setup.source_url).await?;
    session
        .batch_execute("CREATE TABLE numbers (id integer PRIMARY KEY, text text); INSERT INTO numbers SELECT n, n FROM generate_series(1, 8000) n; UPDATE numbers SET text = 'x' WHERE id = 7900")
        .await?;
    let projector = Projector::start(&setup, None, RefreshOptions::default()).await?;
    until(&session, "SELECT count(*) = 2 FROM lockstep.projection WHERE state = 'faulted' AND name <> 'plain'").await?;
    until(&session, "SELECT state = 'live' FROM lockstep.projection WHERE name = 'plain'").await?;
    session.batch_execute("DELETE FROM numbers WHERE id < 500").await?;
    until(&session, "SELECT count(*) = 7501 FROM read_model.plain").await?;
    session.batch_execute("UPDATE numbers SET text = '5' WHERE id = 7900").await?;
    until(&session, "SELECT bool_and(state = 'live') FROM lockstep.projection").await?;
    projector.ends_equal(&setup).await?;
    Ok(())
}
