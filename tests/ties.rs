//! Queries with several right answers: what is maintained is one of them, the same everywhere and always.

use lockstep_preflight::{self as preflight, Depth, Severity};
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Program, Projector, Setup, assert_equal};

/// What becomes of a query's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Made total.
    Appended,
    /// Determined as they are.
    Total,
    /// Left open, and told.
    Open,
}

use Order::{Appended, Open, Total};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, g int, p int, note text, d jsonb);
    INSERT INTO t VALUES (1, 1, 5, 'b', '1'), (2, 1, 5, 'a', '2'), (3, 1, 7, 'c', '3'), (4, 2, 5, 'd', '4'), (5, 2, 5, 'd', '5'), (6, NULL, 5, 'e', '6');
    CREATE TABLE u (t_id int, n int, PRIMARY KEY (t_id, n));
    INSERT INTO u VALUES (1, 1), (1, 2), (1, 3), (2, 4), (2, 6), (9, 1);
    CREATE TABLE loose (x int, y text);
    ALTER TABLE loose REPLICA IDENTITY FULL;
    INSERT INTO loose VALUES (1, 'a'), (1, 'b'), (1, 'b'), (2, NULL);
    CREATE VIEW firsts AS SELECT DISTINCT ON (g) g, id FROM t ORDER BY g;";

/// Name, what becomes of it, query.
const QUERIES: &[(&str, Order, &str)] = &[
    ("on_group", Appended, "SELECT DISTINCT ON (g) g, id, note FROM t ORDER BY g"),
    ("on_unordered", Appended, "SELECT DISTINCT ON (g, p) g, p, id FROM t"),
    ("on_total", Total, "SELECT DISTINCT ON (g) g, id, note FROM t ORDER BY g, p, id"),
    ("on_values", Total, "SELECT DISTINCT ON (g) g FROM t"),
    ("array_by", Appended, "SELECT g, array_agg(id ORDER BY p DESC) AS ids FROM t GROUP BY g"),
    ("array_by_itself", Total, "SELECT g, array_agg(note ORDER BY note) AS notes FROM t GROUP BY g"),
    ("array_unlike", Appended, "SELECT g, array_agg(note ORDER BY upper(note)) AS notes FROM t GROUP BY g"),
    ("string_unordered", Appended, "SELECT g, string_agg(note, ',') AS notes FROM t GROUP BY g"),
    ("string_by_key", Total, "SELECT g, string_agg(note, ',' ORDER BY id) AS notes FROM t GROUP BY g"),
    ("json_of_all", Appended, "SELECT jsonb_agg(d ORDER BY g) AS ds, json_object_agg(p, note) AS o FROM t"),
    (
        "distinct_array",
        Total,
        "SELECT g, array_agg(DISTINCT note) AS notes, mode() WITHIN GROUP (ORDER BY note) AS m FROM t GROUP BY g",
    ),
    ("without_key", Appended, "SELECT x, string_agg(y, ',') AS ys FROM loose GROUP BY x"),
    ("numbered", Appended, "SELECT id, row_number() OVER (ORDER BY p) AS n FROM t"),
    ("numbered_in_group", Appended, "SELECT id, g, row_number() OVER (PARTITION BY g ORDER BY p) AS n FROM t"),
    ("numbered_by_key", Total, "SELECT id, row_number() OVER (PARTITION BY g ORDER BY p, id) AS n FROM t"),
    (
        "ranked",
        Total,
        "SELECT id, rank() OVER w AS r, sum(id) OVER w AS s, count(*) OVER (PARTITION BY g) AS n FROM t WINDOW w AS (PARTITION BY g ORDER BY p)",
    ),
    (
        "shared",
        Appended,
        "SELECT id, rank() OVER w AS r, row_number() OVER w AS n, sum(id) OVER w AS s, lag(note) OVER w AS l FROM t WINDOW w AS (PARTITION BY g ORDER BY p)",
    ),
    ("running", Appended, "SELECT id, sum(id) OVER (PARTITION BY g ORDER BY p ROWS UNBOUNDED PRECEDING) AS s FROM t"),
    ("first_in_group", Appended, "SELECT id, first_value(note) OVER (PARTITION BY g ORDER BY p) AS f FROM t"),
    ("first_price", Total, "SELECT id, first_value(p) OVER (PARTITION BY g ORDER BY p) AS f FROM t"),
    (
        "last_of_all",
        Appended,
        "SELECT id, last_value(note) OVER (PARTITION BY g) AS l, nth_value(note, 2) OVER (PARTITION BY g) AS n FROM t",
    ),
    ("last_of_peers", Open, "SELECT id, last_value(note) OVER (PARTITION BY g ORDER BY p) AS l FROM t"),
    ("limited", Appended, "SELECT id, p FROM t ORDER BY p DESC LIMIT 2"),
    ("limited_unordered", Appended, "SELECT id FROM t OFFSET 4"),
    ("limited_values", Total, "SELECT p FROM t ORDER BY p LIMIT 2"),
    ("with_ties", Total, "SELECT id FROM t ORDER BY p DESC FETCH FIRST 1 ROW WITH TIES"),
    (
        "lateral_first",
        Appended,
        "SELECT t.id, x.n FROM t LEFT JOIN LATERAL (SELECT u.n FROM u WHERE u.t_id = t.id ORDER BY u.n % 2 LIMIT 1) x ON true",
    ),
    ("array_of_subquery", Appended, "SELECT t.id, ARRAY(SELECT u.n FROM u WHERE u.t_id = t.id) AS ns FROM t"),
    ("scalar_first", Appended, "SELECT t.id, (SELECT i.note FROM t i WHERE i.g = t.g LIMIT 1) AS first FROM t"),
    ("scalar_by_key", Total, "SELECT u.t_id, u.n, (SELECT i.note FROM t i WHERE i.id = u.t_id LIMIT 1) AS note FROM u"),
    ("existence", Total, "SELECT t.id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.t_id = t.id LIMIT 1)"),
    (
        "joined_by_keys",
        Total,
        "SELECT t.g, string_agg(t.note, ',' ORDER BY u.t_id, u.n) AS notes FROM u JOIN t ON t.id = u.t_id GROUP BY t.g",
    ),
    (
        "outer_by_keys",
        Total,
        "SELECT u.n, array_agg(t.note ORDER BY u.t_id) AS notes FROM u LEFT JOIN t ON t.id = u.t_id GROUP BY u.n",
    ),
    (
        "from_ordered",
        Appended,
        "SELECT s.g, string_agg(s.note, ',') AS notes FROM (SELECT g, note, id FROM t ORDER BY note DESC) s GROUP BY s.g",
    ),
    ("numbered_ordered", Appended, "SELECT s.id, row_number() OVER () AS n FROM (SELECT id, note FROM t ORDER BY note DESC) s"),
    (
        "numbered_groups",
        Appended,
        "SELECT note, count(*) AS n, row_number() OVER (ORDER BY count(*)) AS place FROM t GROUP BY note",
    ),
    ("of_view", Appended, "SELECT f.id FROM firsts f"),
    ("with_query", Appended, "WITH w AS (SELECT DISTINCT ON (p) p, id FROM t) SELECT w.id, w.p FROM w"),
    ("united", Total, "(SELECT id FROM t UNION ALL SELECT t_id FROM u) ORDER BY 1 LIMIT 3"),
    ("united_open", Appended, "(SELECT id, note FROM t UNION ALL SELECT t_id, 'u' FROM u) ORDER BY 1 LIMIT 8"),
    ("elements", Appended, "SELECT t.id, (SELECT string_agg(e.v, '') FROM unnest(ARRAY['y', t.note, 'x']) AS e(v)) AS vs FROM t"),
    (
        "elements_of_all",
        Appended,
        "SELECT t.g, string_agg(e.v, '') AS vs FROM t CROSS JOIN LATERAL unnest(ARRAY['y', t.note, 'x']) AS e(v) GROUP BY t.g",
    ),
    ("series", Appended, "SELECT t.id, ARRAY(SELECT x.n FROM generate_series(t.p, 1, -1) AS x(n)) AS ns FROM t"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_a_name_is_told_with_one() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = Setup::new(&cluster.url("postgres"), &[("p", "SELECT id, g, p * 2, note || 'x' AS n FROM t", "")]);
    connect(&setup.source_url).await?.batch_execute(TABLES).await?;
    let (status, out, err) = Program::new(&setup)?.run(&["check"])?;
    assert!(status == 0 && out.contains("is called \"?column?\"") && out.contains("write t.p * 2 AS p"), "{out}\n{err}");
    Ok(())
}

/// So PostgreSQL takes tied rows in the order in which they are stored, which is that of their keys: fewer than seven are sorted by
/// insertion, which keeps what ties in its order.
const IN_STORED_ORDER: &str = "SET enable_hashagg = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_indexscan = off;
    SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SET enable_material = off; SET max_parallel_workers_per_gather = 0";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_determined_becomes_one_of_the_right_answers_and_stays() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let session = connect(&url).await?;
    session.batch_execute(TABLES).await?;
    let queries: Vec<(&str, &str, &str)> = QUERIES.iter().map(|(name, _, sql)| (*name, *sql, "group = \"all\"")).collect();
    let mut setup = Setup::new(&url, &queries);
    // Otherwise each that is whole has a group and sessions of its own.
    "[[group]]\nname = \"all\"\n".clone_into(&mut setup.preamble);
    let checked = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(checked.passed(), "{}", checked.errors(false).join("\n"));
    session.batch_execute(IN_STORED_ORDER).await?;
    let mut settled = setup.clone();
    settled.projections.clear();
    for (name, order, sql) in QUERIES {
        let planned = checked.planned.iter().find(|planned| planned.plan.projection == *name).expect("planned");
        let found = match planned.ties.as_slice() {
            [] => Total,
            ties if ties.iter().any(|tie| tie.appended.is_empty()) => Open,
            _ => Appended,
        };
        assert_eq!(found, *order, "{name}: {:?}", planned.ties);
        // The result is right: what PostgreSQL makes of the query as it was written, ties in the order of the keys.
        let definition = planned.plan.definition.as_str();
        // LIMIT keeps its rows in a heap, ties in no order: there the values that are ordered by are compared.
        let shown = match *name {
            "limited" => "r.p",
            "lateral_first" => "(r.id, r.n % 2)",
            _ => "r",
        };
        let rows = |query: &str| format!("SELECT array_agg(({shown})::text ORDER BY ({shown})::text) FROM ({query}) AS r");
        let written: Vec<Option<String>> = session.query_one(&rows(sql), &[]).await?.get(0);
        let maintained: Vec<Option<String>> = session.query_one(&rows(definition), &[]).await?.get(0);
        assert_eq!(maintained, written, "{name}: {definition}");
        // It is told.
        let subject = format!("projection {name}");
        let warned = checked.findings.iter().any(|finding| {
            finding.subject == subject && finding.severity == Severity::Warning && finding.message.contains("rows may tie")
        });
        let as_it_comes = ["elements", "series"].contains(name);
        assert_eq!(warned, *order != Total && !as_it_comes, "{name}");
        if *order != Open {
            settled.projections.push(((*name).to_owned(), definition.to_owned(), String::new()));
        }
    }
    let mut running = setup.clone();
    running.projections.retain(|(name, ..)| name != "last_of_peers");
    let mut projector = Projector::start(&running, None, RefreshOptions::default()).await?;
    projector.catch_up().await?;
    assert_equal(&settled).await?;
    for change in [
        // The same rows, stored in another order.
        "BEGIN; CREATE TEMP TABLE k ON COMMIT DROP AS SELECT * FROM t; DELETE FROM t; INSERT INTO t SELECT * FROM k ORDER BY id DESC; COMMIT",
        "UPDATE u SET n = n WHERE n < 3; UPDATE loose SET y = y",
        "UPDATE t SET p = 5; INSERT INTO t SELECT n, n % 3, 5, 'd' || n % 2, to_jsonb(n) FROM generate_series(100, 140) AS n",
        "DELETE FROM t WHERE id % 2 = 1; UPDATE u SET t_id = 2 WHERE n > 1",
    ] {
        session.batch_execute(change).await?;
        projector.catch_up().await?;
        assert_equal(&settled).await?;
    }
    projector.stop().await?;
    let program = Program::new(&running)?;
    let (status, out, err) = program.run(&["verify"])?;
    assert_eq!(status, 0, "{out}\n{err}");
    let (_, out, err) = program.run(&["plan", "numbered"])?;
    assert!(out.contains("row_number() OVER (ORDER BY t.p)") && out.contains("with \"t\".\"id\" appended"), "{out}\n{err}");
    Ok(())
}
