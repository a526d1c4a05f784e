//! What a change costs does not depend on how large the tables are: rows read and written, by PostgreSQL's own counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lockstep_preflight::{self as preflight, Depth};
use lockstep_refresh::{BatchObserver, BatchView, RefreshOptions};
use lockstep_testkit::{cluster_with, connect};

use crate::harness::{Projector, Setup, assert_equal};

/// One projection for each construct that is incremental. Groups of `status` hold a third of all orders.
const PROJECTIONS: &[(&str, &str)] = &[
    ("filter", "SELECT o.id, o.amount FROM c.orders o WHERE o.amount > 3"),
    ("lookup", "SELECT o.id, k.name FROM c.orders o LEFT JOIN c.customer k ON k.id = o.customer_id"),
    ("one_to_many", "SELECT o.id, l.n, l.product FROM c.orders o LEFT JOIN c.line l ON l.order_id = o.id"),
    ("link", "SELECT o.id, p.id AS payment FROM c.orders o LEFT JOIN c.payment p ON p.order_id = o.id"),
    (
        "null_safe",
        "SELECT o.id, p.id AS payment FROM c.orders o LEFT JOIN c.payment p ON p.order_id IS NOT DISTINCT FROM o.parent",
    ),
    (
        "null_safe_exists",
        "SELECT o.id, EXISTS (SELECT 1 FROM c.payment p WHERE p.order_id IS NOT DISTINCT FROM o.parent AND p.amount IS NOT DISTINCT FROM o.amount) AS paid FROM c.orders o",
    ),
    (
        "range",
        "SELECT o.id, b.id AS band FROM c.orders o LEFT JOIN c.band b ON b.span @> o.id AND b.low <= o.id AND o.id < b.high",
    ),
    (
        "range_exists",
        "SELECT o.id, EXISTS (SELECT 1 FROM c.band b WHERE b.spans AND b.span @> o.id AND o.id BETWEEN b.low AND b.high) AS in_band FROM c.orders o",
    ),
    ("either", "SELECT o.id, p.id AS payment FROM c.orders o JOIN c.payment p ON p.order_id = o.id OR p.order_id = o.parent"),
    ("no_key", "SELECT o.ref, p.amount FROM c.orders o JOIN c.payment p ON p.order_id = o.id"),
    ("full", "SELECT o.id, p.id AS payment FROM c.orders o FULL JOIN c.payment p ON p.order_id = o.id"),
    ("self_join", "SELECT a.id, b.id AS next FROM c.orders a LEFT JOIN c.orders b ON b.parent = a.id"),
    (
        "exists_link",
        "SELECT o.id FROM c.orders o WHERE EXISTS (SELECT 1 FROM c.payment p WHERE p.order_id = o.id AND p.amount > 5)",
    ),
    (
        "not_exists_or",
        "SELECT o.id FROM c.orders o WHERE o.amount > 90 OR NOT EXISTS (SELECT 1 FROM c.payment p WHERE p.order_id = o.id)",
    ),
    ("membership", "SELECT o.id FROM c.orders o WHERE o.id IN (SELECT p.order_id FROM c.payment p WHERE p.amount > 4)"),
    ("not_member", "SELECT o.id FROM c.orders o WHERE o.id NOT IN (SELECT l.order_id FROM c.line l WHERE l.product = 'p3')"),
    (
        "scalar",
        "SELECT o.id, (SELECT count(*) FROM c.line l WHERE l.order_id = o.id) AS n, (SELECT max(p.amount) FROM c.payment p WHERE p.order_id = o.id) AS most FROM c.orders o",
    ),
    (
        "lateral_top",
        "SELECT o.id, x.product FROM c.orders o LEFT JOIN LATERAL (SELECT l.product FROM c.line l WHERE l.order_id = o.id ORDER BY l.n DESC LIMIT 1) x ON true",
    ),
    (
        "derived_group",
        "SELECT o.id, t.paid FROM c.orders o LEFT JOIN (SELECT order_id, sum(amount) AS paid FROM c.payment GROUP BY order_id) t ON t.order_id = o.id",
    ),
    (
        "derived_first",
        "SELECT o.id, t.n FROM c.orders o LEFT JOIN (SELECT DISTINCT ON (order_id) order_id, n FROM c.line ORDER BY order_id, n DESC) t ON t.order_id = o.id",
    ),
    (
        "with_query",
        "WITH big AS (SELECT id, customer_id FROM c.orders WHERE amount > 2) SELECT b.id, k.name FROM big b JOIN c.customer k ON k.id = b.customer_id",
    ),
    ("viewed", "SELECT v.id, v.double FROM c.doubled v"),
    ("united", "SELECT o.ref AS label FROM c.orders o UNION SELECT k.name FROM c.customer k"),
    ("united_all", "SELECT 'o' AS what, o.id FROM c.orders o UNION ALL SELECT 'p', p.id FROM c.payment p"),
    ("distinct_rows", "SELECT DISTINCT o.status, o.customer_id FROM c.orders o"),
    ("distinct_on", "SELECT DISTINCT ON (o.customer_id) o.customer_id, o.id FROM c.orders o ORDER BY o.customer_id, o.id DESC"),
    ("elements", "SELECT o.id, t.v FROM c.orders o CROSS JOIN LATERAL unnest(o.tags) t(v)"),
    ("small_groups", "SELECT o.customer_id, string_agg(o.ref, ',' ORDER BY o.id) AS refs FROM c.orders o GROUP BY o.customer_id"),
    (
        "large_groups",
        "SELECT o.status, count(*) AS n, sum(o.amount) AS total, avg(o.amount) AS mean, sum(o.id) FILTER (WHERE o.amount > 5) AS ids FROM c.orders o GROUP BY o.status",
    ),
    ("extremes", "SELECT o.status, min(o.amount) AS least, max(o.id) AS last FROM c.orders o GROUP BY o.status"),
    ("distinct_counts", "SELECT o.status, count(DISTINCT o.customer_id) AS customers FROM c.orders o GROUP BY o.status"),
    ("of_all", "SELECT count(*) AS n, sum(p.amount) AS total FROM c.orders o JOIN c.payment p ON p.order_id = o.id"),
    ("ranked", "SELECT o.customer_id, o.id, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.id) AS n FROM c.orders o"),
    ("recent", "SELECT p.id FROM c.payment p WHERE p.at > now() - interval '1 hour'"),
    ("over_groups__base", "SELECT o.customer_id, count(*) AS n, sum(o.amount) AS total FROM c.orders o GROUP BY o.customer_id"),
    ("over_groups", "SELECT b.customer_id, b.total / nullif(b.n, 0) AS mean FROM read_model.over_groups__base b"),
    (
        "share_of_groups",
        "SELECT t.status, t.n, round(t.n / sum(t.n) OVER (), 4) AS share FROM (SELECT status, count(*) AS n FROM c.orders GROUP BY status) t",
    ),
    (
        "top_of_customer",
        "SELECT s.customer_id, s.id, s.amount FROM (SELECT o.customer_id, o.id, o.amount, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.amount DESC, o.id) AS place FROM c.orders o) s WHERE s.place <= 2",
    ),
    (
        "top_joined",
        "SELECT k.id, k.name, s.id AS best FROM c.customer k LEFT JOIN (SELECT o.customer_id, o.id, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.amount DESC, o.id) AS place FROM c.orders o) s ON s.customer_id = k.id AND s.place = 1",
    ),
    (
        "gaps",
        "SELECT s.customer_id, max(s.gap) AS widest FROM (SELECT o.customer_id, o.id - lag(o.id) OVER (PARTITION BY o.customer_id ORDER BY o.id) AS gap FROM c.orders o) s GROUP BY s.customer_id",
    ),
    (
        "window_of_groups",
        "SELECT o.customer_id, o.status, count(*) AS n, rank() OVER (PARTITION BY o.customer_id ORDER BY count(*)) AS place FROM c.orders o GROUP BY o.customer_id, o.status",
    ),
    ("except_rows", "SELECT o.customer_id, o.ref FROM c.orders o EXCEPT SELECT k.id, k.name FROM c.customer k"),
    (
        "intersect_all",
        "SELECT o.customer_id FROM c.orders o WHERE o.amount > 3 INTERSECT ALL SELECT o.customer_id FROM c.orders o WHERE o.amount > 4",
    ),
    ("rollup", "SELECT o.status, o.customer_id, count(*) AS n FROM c.orders o GROUP BY ROLLUP (o.status, o.customer_id)"),
    (
        "top_of_all",
        "SELECT o.customer_id, count(*) AS n, sum(o.amount) AS total FROM c.orders o GROUP BY o.customer_id ORDER BY sum(o.amount) DESC NULLS LAST, o.customer_id LIMIT 5 OFFSET 2",
    ),
    (
        "hierarchy",
        "WITH RECURSIVE t AS (SELECT id, name AS path FROM c.unit WHERE parent IS NULL UNION ALL SELECT u.id, t.path || '/' || u.name FROM c.unit u JOIN t ON u.parent = t.id) SELECT id, path FROM t",
    ),
    (
        "closure",
        "WITH RECURSIVE r AS (SELECT parent AS a, id AS b FROM c.unit WHERE parent IS NOT NULL UNION SELECT r.a, u.id FROM r JOIN c.unit u ON u.parent = r.b) SELECT a, b FROM r",
    ),
    ("first_of_table", "SELECT o.id, o.status FROM c.orders o ORDER BY o.id DESC LIMIT 5"),
    (
        "first_of_some",
        "SELECT o.id, o.ref FROM c.orders o WHERE o.status = 'new' ORDER BY o.amount DESC NULLS LAST, o.id LIMIT 5",
    ),
    ("keyless_rows", "SELECT e.kind, e.n, o.ref FROM c.event e LEFT JOIN c.orders o ON o.id = e.order_id"),
    ("keyless_groups", "SELECT e.kind, count(*) AS events, sum(e.n) AS total FROM c.event e GROUP BY e.kind"),
    ("keyless_link", "SELECT o.id, e.kind FROM c.orders o JOIN c.event e ON e.order_id = o.id"),
    ("over_a_value", "SELECT o.id, o.amount FROM c.orders o WHERE o.amount >= (SELECT max(x.amount) FROM c.orders x)"),
];

/// Building all of them over the large tables may take so long.
const BUILD_PATIENCE: std::time::Duration = std::time::Duration::from_mins(5);

/// Changes of one row.
const CHANGES: &[&str] = &[
    "UPDATE c.orders SET amount = amount + 1 WHERE id = 77",
    "UPDATE c.orders SET status = 'sent', customer_id = 3, ref = 'moved' WHERE id = 78",
    "INSERT INTO c.line VALUES (79, 9, 'p3')",
    "UPDATE c.payment SET order_id = 81, amount = 9 WHERE id = 80",
    "DELETE FROM c.payment WHERE id = 82",
    "UPDATE c.customer SET name = 'renamed' WHERE id = 5",
    "DELETE FROM c.orders WHERE id = 83",
    "UPDATE c.unit SET name = 'renamed' WHERE id = 62",
    "UPDATE c.unit SET parent = 55 WHERE id = 66",
    "UPDATE c.event SET n = n + 1 WHERE order_id = 86",
    "DELETE FROM c.event WHERE order_id = 87",
    "UPDATE c.band SET low = low + 2, high = high + 3, span = int8range(low + 2, high + 3) WHERE id = 4",
    "INSERT INTO c.orders VALUES (1000001, 7, 'new', 0.5, 'r1000001', 84, '{x,y}')",
];

fn schema(rows: usize) -> String {
    format!(
        "CREATE SCHEMA c;
         CREATE TABLE c.orders (id bigint PRIMARY KEY, customer_id integer, status text, amount numeric(10,2), ref text, parent bigint, tags text[]);
         CREATE TABLE c.customer (id integer PRIMARY KEY, name text);
         CREATE TABLE c.line (order_id bigint, n integer, product text, PRIMARY KEY (order_id, n));
         CREATE TABLE c.payment (id bigint PRIMARY KEY, order_id bigint, amount numeric, at timestamptz);
         CREATE TABLE c.event (order_id bigint, kind text, n integer);
         ALTER TABLE c.event REPLICA IDENTITY FULL;
         CREATE TABLE c.band (id integer PRIMARY KEY, low bigint, high bigint, span int8range, spans boolean);
         INSERT INTO c.band SELECT n, n * 10, n * 10 + 12, int8range(n * 10, n * 10 + 12), true FROM generate_series(1, {rows} / 10) n;
         CREATE VIEW c.doubled AS SELECT id, amount * 2 AS double FROM c.orders WHERE status <> 'new';
         INSERT INTO c.orders SELECT n, 1 + n % ({rows} / 10), (ARRAY['new','paid','sent'])[1 + n % 3], n % 100, 'r' || n, n / 2, ARRAY['t' || n % 5, 'x']
            FROM generate_series(1, {rows}) n;
         CREATE TABLE c.unit (id integer PRIMARY KEY, parent integer, name text);
         INSERT INTO c.unit SELECT n, CASE WHEN n % 10 > 0 THEN n - 1 END, 'u' || n FROM generate_series(1, {rows}) n;
         INSERT INTO c.customer SELECT n, 'Customer ' || n FROM generate_series(1, {rows} / 10) n;
         INSERT INTO c.line SELECT n, m, 'p' || (n + m) % 9 FROM generate_series(1, {rows}) n, generate_series(1, 2) m;
         INSERT INTO c.event SELECT n, 'kind' || n % 3, n % 7 FROM generate_series(1, {rows}) n;
         INSERT INTO c.payment SELECT n, n, n % 11, now() - interval '1 day' FROM generate_series(1, {rows}) n;
         ANALYZE"
    )
}

/// Rows that each group's last batch read and wrote, from the counters of the batch's own transaction.
#[derive(Default)]
struct Meter {
    before: Mutex<BTreeMap<String, i64>>,
    costs: Mutex<BTreeMap<String, i64>>,
}

const COUNTED: &str =
    "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint
    FROM pg_stat_xact_user_tables WHERE relname NOT IN ('checkpoint', 'projection')";

impl Meter {
    async fn count(batch: &BatchView<'_>) -> Result<i64, String> {
        Ok(batch.target.query_one(COUNTED, &[]).await.map_err(|error| error.to_string())?.get(0))
    }

    fn take(&self) -> BTreeMap<String, i64> {
        std::mem::take(&mut *self.costs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BatchObserver for Meter {
    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let count = Self::count(&batch).await?;
            // What earlier transactions of the session have counted and not handed on is not this one's.
            let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).get(batch.group).copied().unwrap_or(0);
            let cost = if count >= before { count - before } else { count };
            *self.costs.lock().unwrap_or_else(PoisonError::into_inner).entry(batch.group.to_owned()).or_default() += cost;
            Ok(())
        }
        .boxed()
    }

    fn after_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, ()> {
        async move {
            let count = Self::count(&batch).await.unwrap_or(0);
            self.before.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.group.to_owned(), count);
        }
        .boxed()
    }
}

/// For each change, what it cost each projection.
async fn costs(rows: usize) -> anyhow::Result<Vec<BTreeMap<String, i64>>> {
    let cluster = cluster_with(&["max_connections=200"])?;
    let mut setup = Setup::new(&cluster.url("postgres"), &[]);
    for (name, sql) in PROJECTIONS {
        let group = name.trim_end_matches("__base");
        if group == *name {
            setup.preamble.push_str(&format!("[[group]]\nname = \"{group}\"\n"));
        }
        setup.projections.push(((*name).to_owned(), (*sql).to_owned(), format!("group = \"{group}\"")));
    }
    let source = connect(&setup.source_url).await?;
    source.batch_execute(&schema(rows)).await?;
    let checked = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(checked.passed(), "{}", checked.errors(false).join("\n"));
    // The indexes that the plans ask for are all that it takes.
    let mut indexes: Vec<String> = Vec::new();
    for role in checked.planned.iter().flat_map(|planned| planned.plan.branches()).flat_map(|branch| &branch.roles) {
        indexes.extend(role.missing_indexes.iter().map(|index| index.statement().replace(" CONCURRENTLY", "")));
    }
    indexes.sort();
    indexes.dedup();
    for index in indexes {
        source.batch_execute(&index).await?;
    }
    source.batch_execute("ANALYZE").await?;
    let meter = Arc::new(Meter::default());
    let mut projector = Projector::start(&setup, Some(meter.clone()), RefreshOptions::default()).await?;
    projector.catch_up_within(BUILD_PATIENCE).await?;
    let mut all = Vec::new();
    for change in CHANGES {
        meter.take();
        source.batch_execute(change).await?;
        projector.catch_up().await?;
        all.push(meter.take());
    }
    projector.stop().await?;
    // PostgreSQL itself takes hours for the latter as they are written, which know no index.
    setup.projections.retain(|(name, ..)| name != "recent" && !name.starts_with("null_safe"));
    assert_equal(&setup).await?;
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_the_same_in_large_tables() -> anyhow::Result<()> {
    let (small, large) = (costs(1_000).await?, costs(100_000).await?);
    let mut dear = Vec::new();
    for ((change, small), large) in CHANGES.iter().zip(&small).zip(&large) {
        for (projection, &cost) in large {
            let before = small.get(projection).copied().unwrap_or(0);
            println!("{projection:16} {before:6} {cost:6}  {change}");
            // Small tables are read whole where that is cheaper; a factor hides no reading of large ones.
            if cost > 3 * before + 150 {
                dear.push(format!("{projection}: {before} rows of 1,000, {cost} of 100,000: {change}"));
            }
        }
    }
    let measured: usize = large.iter().map(BTreeMap::len).sum();
    assert!(measured >= PROJECTIONS.len() * 2, "only {measured} batches were measured");
    assert!(dear.is_empty(), "{}", dear.join("\n"));
    Ok(())
}
