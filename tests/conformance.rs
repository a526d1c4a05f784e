//! Every construct of SQL, and every fault that other systems had: maintained as it should be, and after every batch equal to its query.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep::preflight::{self, Depth};
use lockstep_plan::Maintenance;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{Oracle, Workload, cluster, seed_from_environment};

use crate::harness::{PATIENCE, Projector, Setup, assert_equal, shop};

/// How a construct has to be maintained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// A change costs what the rows that it affects cost.
    Incremental,
    /// As that, but for one relation whose changes recompute everything.
    Partly,
    /// Recomputed in full, over the tables of inner projections that are incremental.
    Inner,
    /// Recomputed in full.
    Whole,
}

use How::{Incremental, Inner, Partly, Whole};

type Construct = (&'static str, How, &'static str, &'static str);

/// Name, how, query, additional TOML.
const JOINS: &[Construct] = &[
    ("one_to_many", Incremental, "SELECT o.id, o.status, l.position, l.product FROM shop.orders o JOIN shop.line l ON l.order_id = o.id", ""),
    ("one_to_many_keyed", Incremental, "SELECT o.id, o.status, l.position, l.product FROM shop.orders o JOIN shop.line l ON l.order_id = o.id",
        "key = [\"id\", \"position\"]"),
    ("left_many", Incremental, "SELECT o.id, l.position, l.quantity FROM shop.orders o LEFT JOIN shop.line l ON l.order_id = o.id AND l.quantity > 1", ""),
    ("right_many", Incremental, "SELECT o.id, p.id AS payment, p.amount FROM shop.payment p RIGHT JOIN shop.orders o ON p.order_id = o.id", ""),
    ("non_key_join", Incremental, "SELECT o.id, p.id AS payment, p.method FROM shop.orders o JOIN shop.payment p ON p.order_id = o.id WHERE o.amount > 5", ""),
    ("text_join", Incremental, "SELECT c.id, e.id AS employee FROM shop.customer c JOIN shop.employee e ON e.region_code = c.region_code", ""),
    ("expression_join", Incremental, "SELECT c.id, e.name FROM shop.customer c LEFT JOIN shop.employee e ON upper(e.region_code) = upper(c.region_code) AND e.id > 4", ""),
    ("self_join", Incremental, "SELECT e.id, e.name, m.name AS manager FROM shop.employee e LEFT JOIN shop.employee m ON m.id = e.manager_id", ""),
    ("self_join_many", Incremental, "SELECT m.id, m.name, e.id AS report, e.name AS report_name FROM shop.employee m LEFT JOIN shop.employee e ON e.manager_id = m.id", ""),
    ("three_of_a_kind", Incremental, "SELECT a.id, b.name AS b, c.name AS c FROM shop.employee a JOIN shop.employee b ON b.id = a.manager_id LEFT JOIN shop.employee c ON c.manager_id = b.id AND c.id <> a.id", ""),
    ("mixed_chain", Incremental, "SELECT c.id, c.\"fullName\", o.id AS order_id, r.name AS region, l.position FROM shop.customer c LEFT JOIN shop.region r ON r.code = c.region_code
        LEFT JOIN shop.orders o ON o.customer_id = c.id LEFT JOIN shop.line l ON l.order_id = o.id", ""),
    ("left_of_join", Incremental, "SELECT c.id, o.id AS order_id, p.id AS payment FROM shop.customer c LEFT JOIN (shop.orders o JOIN shop.payment p ON p.order_id = o.id) ON o.customer_id = c.id", ""),
    ("full_by_key", Incremental, "SELECT o.id, c.id AS customer, c.tier FROM shop.orders o FULL JOIN shop.customer c ON c.id = o.customer_id", ""),
    ("full_by_value", Incremental, "SELECT e.id, c.id AS customer FROM shop.employee e FULL JOIN shop.customer c ON c.region_code = e.region_code", ""),
    ("full_self", Incremental, "SELECT a.id, b.id AS other FROM shop.employee a FULL JOIN shop.employee b ON a.manager_id = b.id", ""),
    ("full_then_left", Incremental, "SELECT p.id, o.id AS order_id, c.\"fullName\" AS name FROM shop.payment p FULL JOIN shop.orders o ON o.id = p.order_id LEFT JOIN shop.customer c ON c.id = o.customer_id", ""),
    ("unmatched_only", Incremental, "SELECT o.id FROM shop.orders o LEFT JOIN shop.payment p ON p.order_id = o.id WHERE p.id IS NULL", ""),
    ("no_key_selected", Incremental, "SELECT o.status, l.product FROM shop.orders o JOIN shop.line l ON l.order_id = o.id", ""),
    ("filter_not_selected", Incremental, "SELECT o.status FROM shop.orders o WHERE o.amount > 20", ""),
    ("where_on_both", Incremental, "SELECT o.id, c.tier FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id WHERE coalesce(c.tier, 2) = 2", ""),
    (
        "three_tables",
        Incremental,
        "SELECT o.id, l.position, p.id AS payment FROM shop.orders o JOIN shop.line l ON l.order_id = o.id JOIN shop.payment p ON p.order_id = l.order_id",
        "",
    ),
    (
        "left_on_unequal",
        Incremental,
        "SELECT o.id, l.position FROM shop.orders o LEFT JOIN shop.line l ON l.order_id = o.id AND l.quantity < o.amount AND o.status <> 'new'",
        "",
    ),
    (
        "outer_over_cross",
        Whole,
        "SELECT o.id, x.id AS payment, y.code FROM shop.orders o LEFT JOIN (shop.payment x CROSS JOIN shop.region y) ON x.order_id = o.id",
        "",
    ),
    (
        "using_and_null_keys",
        Incremental,
        "SELECT a.id, b.id AS colleague FROM shop.employee a LEFT JOIN shop.employee b ON b.manager_id = a.manager_id AND b.region_code = a.region_code AND b.id <> a.id",
        "",
    ),
    ("cross", Whole, "SELECT r.code, e.id FROM shop.region r CROSS JOIN shop.employee e", ""),
    ("inequality", Whole, "SELECT a.id, b.id AS other FROM shop.employee a LEFT JOIN shop.employee b ON b.id > a.id + 28", ""),
    ("or_join", Whole, "SELECT o.id, c.id AS customer FROM shop.orders o JOIN shop.customer c ON c.id = o.customer_id OR c.id = o.id", ""),
];

const SUBQUERIES: &[Construct] = &[
    ("exists_many", Incremental, "SELECT o.id, o.status FROM shop.orders o WHERE EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id AND p.amount > 5)", ""),
    ("not_exists_many", Incremental, "SELECT o.id FROM shop.orders o WHERE NOT EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id AND p.method = 'card')", ""),
    ("exists_under_or", Incremental, "SELECT o.id FROM shop.orders o WHERE o.status = 'new' OR EXISTS (SELECT 1 FROM shop.line l WHERE l.order_id = o.id AND l.quantity = 3)
        OR NOT EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id)", ""),
    ("exists_as_value", Incremental, "SELECT o.id, EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id) AS paid, CASE WHEN EXISTS (SELECT 1 FROM shop.line l WHERE l.order_id = o.id) THEN 1 END AS lines FROM shop.orders o", ""),
    ("in_many", Incremental, "SELECT o.id FROM shop.orders o WHERE o.id IN (SELECT p.order_id FROM shop.payment p WHERE p.method = 'cash')", ""),
    ("not_in_nullable", Incremental, "SELECT o.id FROM shop.orders o WHERE o.id NOT IN (SELECT p.order_id FROM shop.payment p WHERE p.amount > 30)", ""),
    ("not_in_null_value", Incremental, "SELECT o.id FROM shop.orders o WHERE o.customer_id NOT IN (SELECT c.id FROM shop.customer c WHERE c.tier = 1)", ""),
    ("not_in_both_null", Incremental, "SELECT p.id FROM shop.payment p WHERE p.order_id NOT IN (SELECT x.manager_id FROM shop.employee x WHERE x.id < 3)", ""),
    ("in_as_value", Incremental, "SELECT p.id, p.order_id IN (SELECT x.manager_id FROM shop.employee x WHERE x.id % 9 = 2) AS member FROM shop.payment p", ""),
    ("two_columns_in", Incremental, "SELECT l.order_id, l.position FROM shop.line l WHERE (l.order_id, l.position) IN (SELECT p.order_id, p.id % 4 FROM shop.payment p)", ""),
    ("correlated_not_in", Incremental, "SELECT o.id FROM shop.orders o WHERE o.status NOT IN (SELECT p.method FROM shop.payment p WHERE p.order_id = o.id)", ""),
    (
        "not_in_by_composite_key",
        Incremental,
        "SELECT o.id, o.customer_id NOT IN (SELECT l.position FROM shop.line l WHERE l.order_id = o.id) AS absent FROM shop.orders o",
        "",
    ),
    (
        "not_in_outer_member",
        Partly,
        "SELECT p.id, p.order_id NOT IN (SELECT c.id FROM shop.employee e LEFT JOIN shop.customer c ON c.id = e.manager_id) AS absent FROM shop.payment p",
        "",
    ),
    ("scalar_count", Incremental, "SELECT o.id, (SELECT count(*) FROM shop.line l WHERE l.order_id = o.id) AS lines, (SELECT sum(p.amount) FROM shop.payment p WHERE p.order_id = o.id) AS paid FROM shop.orders o", ""),
    ("scalar_in_where", Incremental, "SELECT o.id FROM shop.orders o WHERE o.amount > (SELECT sum(p.amount) FROM shop.payment p WHERE p.order_id = o.id)", ""),
    ("scalar_nested", Incremental, "SELECT c.id, (SELECT max((SELECT sum(l.quantity) FROM shop.line l WHERE l.order_id = o.id)) FROM shop.orders o WHERE o.customer_id = c.id) AS largest FROM shop.customer c", ""),
    ("array_of_subquery", Incremental, "SELECT o.id, ARRAY(SELECT l.product FROM shop.line l WHERE l.order_id = o.id ORDER BY l.position) AS products FROM shop.orders o", ""),
    ("subquery_join", Incremental, "SELECT c.id FROM shop.customer c WHERE EXISTS (SELECT 1 FROM shop.orders o JOIN shop.line l ON l.order_id = o.id WHERE o.customer_id = c.id AND l.quantity = 2)", ""),
    ("exists_in_exists", Incremental, "SELECT c.id FROM shop.customer c WHERE EXISTS (SELECT 1 FROM shop.orders o WHERE o.customer_id = c.id AND NOT EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id))", ""),
    ("outer_reference_in_on", Incremental, "SELECT o.id, (SELECT count(*) FROM shop.line l LEFT JOIN shop.payment p ON p.order_id = o.id AND p.amount > l.quantity WHERE l.order_id = o.id) AS n FROM shop.orders o", ""),
    ("lateral_first", Incremental, "SELECT o.id, x.product, x.quantity FROM shop.orders o LEFT JOIN LATERAL (SELECT l.product, l.quantity FROM shop.line l WHERE l.order_id = o.id ORDER BY l.quantity DESC NULLS LAST, l.position LIMIT 1) x ON true", ""),
    (
        "lateral_with_ties",
        Incremental,
        "SELECT o.id, x.quantity FROM shop.orders o LEFT JOIN LATERAL (SELECT l.quantity FROM shop.line l WHERE l.order_id = o.id ORDER BY l.quantity FETCH FIRST 1 ROW WITH TIES) x ON true",
        "",
    ),
    ("lateral_many", Incremental, "SELECT o.id, x.position FROM shop.orders o CROSS JOIN LATERAL (SELECT l.position FROM shop.line l WHERE l.order_id = o.id) x", ""),
    ("lateral_aggregate", Incremental, "SELECT c.id, x.n, x.total FROM shop.customer c CROSS JOIN LATERAL (SELECT count(*) AS n, sum(o.amount) AS total FROM shop.orders o WHERE o.customer_id = c.id) x WHERE x.n <> 5", ""),
    ("row_by_constant", Incremental, "SELECT o.id, (SELECT r.name FROM shop.region r WHERE r.code = 'r3') AS region FROM shop.orders o WHERE o.id < 60", ""),
    ("uncorrelated", Partly, "SELECT o.id FROM shop.orders o WHERE o.amount > (SELECT avg(p.amount) FROM shop.payment p)", ""),
    ("uncorrelated_self", Whole, "SELECT o.id FROM shop.orders o WHERE o.amount > (SELECT avg(p.amount) FROM shop.orders p)", ""),
];

const FROM_ITEMS: &[Construct] = &[
    ("with_plain", Incremental, "WITH paid AS (SELECT id, customer_id FROM shop.orders WHERE status = 'paid') SELECT p.id, c.tier FROM paid p JOIN shop.customer c ON c.id = p.customer_id", ""),
    ("with_twice", Incremental, "WITH r AS (SELECT code, upper(name) AS name FROM shop.region) SELECT c.id, a.name AS own, b.name AS third FROM shop.customer c LEFT JOIN r a ON a.code = c.region_code LEFT JOIN r b ON b.code = 'r' || c.tier", ""),
    ("with_column_names", Incremental, "WITH x(key, what) AS (SELECT id, status FROM shop.orders) SELECT x.key, x.what, y.id FROM x LEFT JOIN (SELECT id, order_id FROM shop.payment) y(id, of) ON y.of = x.key", ""),
    ("derived_transparent", Incremental, "SELECT s.id, s.doubled, s.name FROM (SELECT o.id, o.amount * 2 AS doubled, c.\"fullName\" AS name FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id WHERE o.amount > 1) s WHERE s.doubled < 80", ""),
    ("derived_aggregate", Incremental, "SELECT c.id, c.tier, t.n, t.total FROM shop.customer c LEFT JOIN (SELECT customer_id, count(*) AS n, sum(amount) AS total FROM shop.orders GROUP BY customer_id) t ON t.customer_id = c.id", ""),
    ("derived_two_aggregates", Incremental, "SELECT o.id, l.n AS lines, p.paid FROM shop.orders o LEFT JOIN (SELECT order_id, count(*) AS n FROM shop.line GROUP BY order_id) l ON l.order_id = o.id
        LEFT JOIN (SELECT order_id, sum(amount) AS paid FROM shop.payment GROUP BY order_id) p ON p.order_id = o.id", ""),
    ("derived_distinct", Incremental, "SELECT c.id, d.status FROM shop.customer c JOIN (SELECT DISTINCT customer_id, status FROM shop.orders) d ON d.customer_id = c.id", ""),
    ("derived_distinct_on", Incremental, "SELECT c.id, d.id AS last_order FROM shop.customer c LEFT JOIN (SELECT DISTINCT ON (customer_id) customer_id, id FROM shop.orders ORDER BY customer_id, id DESC) d ON d.customer_id = c.id", ""),
    ("derived_window", Incremental, "SELECT c.id, d.id AS order_id, d.n FROM shop.customer c JOIN (SELECT id, customer_id, row_number() OVER (PARTITION BY customer_id ORDER BY id) AS n FROM shop.orders) d ON d.customer_id = c.id WHERE d.n <= 2", ""),
    ("view", Incremental, "SELECT v.id, v.double, c.tier FROM shop.paid_order v LEFT JOIN shop.customer c ON c.id = v.customer_id", ""),
    ("view_of_view", Incremental, "SELECT c.id, v.orders FROM shop.customer c LEFT JOIN shop.paid_customer v ON v.customer = c.id", ""),
    ("values_list", Incremental, "SELECT o.id, v.label FROM shop.orders o JOIN (VALUES ('new', 'New'), ('paid', 'Paid')) v(status, label) ON v.status = o.status", ""),
    ("elements", Incremental, "SELECT b.id, e.value ->> 'sku' AS sku, (e.value ->> 'n')::integer AS n FROM shop.basket b CROSS JOIN LATERAL jsonb_array_elements(b.items) e(value)", ""),
    ("elements_joined", Incremental, "SELECT b.id, x.order_id, o.status FROM shop.basket b CROSS JOIN LATERAL unnest(b.order_ids) x(order_id) LEFT JOIN shop.orders o ON o.id = x.order_id", ""),
    ("set_in_select", Incremental, "SELECT b.id, unnest(b.order_ids) AS order_id FROM shop.basket b", ""),
    ("series", Incremental, "SELECT l.order_id, l.position, g.n FROM shop.line l CROSS JOIN LATERAL generate_series(1, l.quantity) g(n)", ""),
    ("using", Incremental, "SELECT order_id, l.position, p.id FROM shop.line l JOIN shop.payment p USING (order_id)", ""),
    ("recursive", Whole, "WITH RECURSIVE t AS (SELECT id, manager_id, 1 AS depth FROM shop.employee WHERE manager_id IS NULL UNION SELECT e.id, e.manager_id, t.depth + 1 FROM shop.employee e JOIN t ON t.id = e.manager_id WHERE t.depth < 9) SELECT id, depth FROM t", ""),
    ("limited", Whole, "SELECT o.id FROM shop.orders o ORDER BY o.id LIMIT 5", ""),
];

const GROUPS: &[Construct] = &[
    (
        "union_all",
        Incremental,
        "SELECT 'order' AS what, o.id, o.amount FROM shop.orders o UNION ALL SELECT 'payment', p.id, p.amount FROM shop.payment p WHERE p.method IS NOT NULL",
        "",
    ),
    (
        "union_distinct",
        Incremental,
        "SELECT o.status AS label FROM shop.orders o UNION SELECT p.method FROM shop.payment p UNION SELECT r.name FROM shop.region r",
        "",
    ),
    (
        "union_types",
        Incremental,
        "SELECT o.id::integer AS n, o.amount AS v FROM shop.orders o UNION ALL SELECT l.position, l.quantity FROM shop.line l",
        "",
    ),
    ("distinct_rows", Incremental, "SELECT DISTINCT o.status, o.customer_id FROM shop.orders o", ""),
    (
        "distinct_on",
        Incremental,
        "SELECT DISTINCT ON (o.customer_id) o.customer_id, o.id, o.amount FROM shop.orders o ORDER BY o.customer_id, o.amount DESC NULLS LAST, o.id",
        "",
    ),
    (
        "grouped_join",
        Incremental,
        "SELECT o.status, l.product, count(*) AS n, sum(l.quantity) AS quantity FROM shop.orders o JOIN shop.line l ON l.order_id = o.id GROUP BY o.status, l.product",
        "",
    ),
    (
        "grouped_left",
        Incremental,
        "SELECT c.tier, count(o.id) AS orders, count(*) AS n, sum(o.amount) AS total FROM shop.customer c LEFT JOIN shop.orders o ON o.customer_id = c.id GROUP BY c.tier",
        "",
    ),
    (
        "grouped_full",
        Incremental,
        "SELECT c.tier, o.status, count(*) AS n, sum(o.amount) AS total FROM shop.orders o FULL JOIN shop.customer c ON c.id = o.customer_id GROUP BY c.tier, o.status",
        "",
    ),
    (
        "grouped_exists",
        Incremental,
        "SELECT o.status, count(*) FILTER (WHERE EXISTS (SELECT 1 FROM shop.payment p WHERE p.order_id = o.id)) AS paid FROM shop.orders o GROUP BY o.status",
        "",
    ),
    (
        "grouped_subquery",
        Incremental,
        "SELECT c.region_code, (SELECT r.name FROM shop.region r WHERE r.code = c.region_code) AS region, count(*) AS n FROM shop.customer c GROUP BY c.region_code",
        "",
    ),
    (
        "grouped_derived",
        Incremental,
        "SELECT t.tier, sum(t.double) AS total FROM (SELECT c.tier, o.amount * 2 AS double FROM shop.orders o JOIN shop.customer c ON c.id = o.customer_id) t GROUP BY t.tier HAVING sum(t.double) > 20",
        "",
    ),
    (
        "grouped_elements",
        Incremental,
        "SELECT e.value ->> 'sku' AS sku, count(*) AS n FROM shop.basket b CROSS JOIN LATERAL jsonb_array_elements(b.items) e(value) GROUP BY e.value ->> 'sku'",
        "",
    ),
    (
        "case_sums",
        Incremental,
        "SELECT o.customer_id, sum(CASE WHEN o.status = 'paid' THEN o.amount ELSE 0 END) AS paid, sum(CASE WHEN o.status = 'new' THEN 1 END) AS new, round(sum(o.amount) / nullif(count(o.amount), 0), 2) AS mean FROM shop.orders o GROUP BY o.customer_id",
        "",
    ),
    (
        "null_sums",
        Incremental,
        "SELECT l.product, sum(l.quantity) AS quantity, min(l.quantity) AS least, max(l.quantity) AS most, avg(l.quantity) AS mean FROM shop.line l GROUP BY l.product",
        "",
    ),
    (
        "floats",
        Incremental,
        "SELECT o.status, sum(o.amount::double precision ORDER BY o.id) AS total, stddev(o.amount) AS deviation FROM shop.orders o GROUP BY o.status",
        "",
    ),
    (
        "expression_groups",
        Incremental,
        "SELECT date_trunc('week', o.placed) AS week, CASE WHEN o.amount > 20 THEN 'high' WHEN o.amount > 5 THEN 'low' END AS bracket, count(*) AS n, array_agg(o.id ORDER BY o.id) AS ids FROM shop.orders o GROUP BY 1, 2",
        "",
    ),
    (
        "global_join",
        Incremental,
        "SELECT count(*) AS n, sum(p.amount) AS total, count(DISTINCT o.customer_id) AS customers FROM shop.orders o JOIN shop.payment p ON p.order_id = o.id",
        "",
    ),
    (
        "first_and_last",
        Incremental,
        "SELECT o.customer_id, min(o.placed) AS first, max(o.placed) AS last, count(*) AS n FROM shop.orders o GROUP BY o.customer_id HAVING count(*) > 6 AND max(o.placed) > min(o.placed)",
        "",
    ),
    (
        "window_partition",
        Incremental,
        "SELECT o.customer_id, o.id, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.id) AS n, sum(o.amount) OVER (PARTITION BY o.customer_id) AS total FROM shop.orders o",
        "",
    ),
    (
        "window_named",
        Incremental,
        "SELECT e.region_code, e.name, rank() OVER w AS place, count(*) OVER (PARTITION BY e.region_code, e.manager_id) AS peers FROM shop.employee e WINDOW w AS (PARTITION BY e.region_code ORDER BY e.id)",
        "",
    ),
    (
        "window_inherits",
        Incremental,
        "SELECT e.id, e.region_code, sum(e.id) OVER (w ORDER BY e.id) AS running, count(*) OVER (v ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS near FROM shop.employee e WINDOW w AS (PARTITION BY e.region_code), v AS (PARTITION BY e.region_code ORDER BY e.id DESC)",
        "",
    ),
    (
        "window_hidden",
        Incremental,
        "SELECT o.id, rank() OVER (PARTITION BY o.status, o.customer_id ORDER BY o.placed) AS place,
            sum(o.amount) OVER (PARTITION BY o.customer_id) AS total FROM shop.orders o",
        "",
    ),
    (
        "window_joined",
        Incremental,
        "SELECT r.name AS region, c.id, 1 + lag(c.tier) OVER (PARTITION BY r.name ORDER BY c.id) AS before FROM shop.customer c JOIN shop.region r ON r.code = c.region_code",
        "",
    ),
    ("window_all", Whole, "SELECT e.id, row_number() OVER (ORDER BY e.id) AS n FROM shop.employee e", ""),
    (
        "rollup",
        Whole,
        "SELECT o.status, o.customer_id, count(*) AS n FROM shop.orders o GROUP BY ROLLUP (o.status, o.customer_id)",
        "",
    ),
    ("except_rows", Whole, "SELECT o.customer_id FROM shop.orders o EXCEPT SELECT c.id FROM shop.customer c", ""),
];

/// Aggregates that are accumulated. The casts to text make the comparison see decimals, which equality of numbers does not.
const ACCUMULATED: &[Construct] = &[
    (
        "exact_decimals",
        Incremental,
        "SELECT o.status, sum(o.amount)::text AS total, avg(o.amount)::text AS mean, count(*) AS n, count(o.amount) AS amounts FROM shop.orders o GROUP BY o.status",
        "",
    ),
    (
        "scaled",
        Incremental,
        "SELECT p.method, sum(p.amount)::text AS total, avg(p.amount)::text AS mean FROM shop.payment p GROUP BY p.method",
        "",
    ),
    (
        "integers",
        Incremental,
        "SELECT l.product, sum(l.quantity)::text AS quantity, avg(l.quantity)::text AS mean, sum(l.order_id)::text AS ids, avg(l.order_id)::text AS mean_id, pg_typeof(sum(l.quantity))::text AS type FROM shop.line l GROUP BY l.product",
        "",
    ),
    (
        "extremes",
        Incremental,
        "SELECT o.customer_id, min(o.amount)::double precision AS least, max(o.amount)::double precision AS most, min(o.id) AS first, max(o.placed) AS last FROM shop.orders o GROUP BY o.customer_id",
        "",
    ),
    (
        "distinct_values",
        Incremental,
        "SELECT o.status, count(DISTINCT o.customer_id) AS customers, count(DISTINCT o.amount) AS amounts, count(DISTINCT o.placed) FILTER (WHERE o.amount > 10) AS days FROM shop.orders o GROUP BY o.status",
        "",
    ),
    (
        "filtered",
        Incremental,
        "SELECT o.placed, count(*) FILTER (WHERE o.status = 'new') AS new, sum(o.amount) FILTER (WHERE o.status = 'paid') AS paid, max(o.id) FILTER (WHERE o.amount IS NULL) AS unknown FROM shop.orders o GROUP BY o.placed",
        "",
    ),
    (
        "cases",
        Incremental,
        "SELECT o.customer_id, sum(CASE WHEN o.status = 'paid' THEN o.amount ELSE 0 END)::text AS paid, round(sum(o.amount) / nullif(count(o.amount), 0), 2) AS mean FROM shop.orders o GROUP BY o.customer_id HAVING count(*) > 2 OR sum(o.amount) IS NULL",
        "",
    ),
    (
        "of_all",
        Incremental,
        "SELECT count(*) AS n, sum(l.quantity) AS quantity, max(l.order_id) AS last, count(DISTINCT l.product) AS products, avg(l.quantity)::text AS mean FROM shop.line l WHERE l.quantity > 1",
        "",
    ),
    (
        "of_none",
        Incremental,
        "SELECT count(*) AS n, sum(o.amount) AS total, min(o.id) AS first FROM shop.orders o WHERE o.status = 'lost'",
        "",
    ),
    (
        "dependent",
        Incremental,
        "SELECT c.id, c.\"fullName\" AS name, count(o.id) AS n, sum(o.amount) AS total FROM shop.customer c LEFT JOIN shop.orders o ON o.customer_id = c.id GROUP BY c.id",
        "",
    ),
    (
        "of_joins",
        Incremental,
        "SELECT r.name, count(*) AS n, sum(l.quantity) AS quantity, count(DISTINCT o.id) AS orders FROM shop.line l JOIN shop.orders o ON o.id = l.order_id LEFT JOIN shop.customer c ON c.id = o.customer_id LEFT JOIN shop.region r ON r.code = c.region_code GROUP BY r.name",
        "",
    ),
    ("distinct_accumulated", Incremental, "SELECT DISTINCT l.product, l.quantity FROM shop.line l", ""),
];

/// Inner projections, and projections that read projections.
const CHAINS: &[Construct] = &[
    ("growth", Inner, "WITH daily AS (SELECT o.placed, sum(o.amount) AS total, count(*) AS n FROM shop.orders o GROUP BY o.placed)
        SELECT d.placed, d.total, d.total - lag(d.total) OVER (ORDER BY d.placed) AS growth, round(d.n / sum(d.n) OVER (), 3) AS share FROM daily d", ""),
    ("growth_in_one", Inner, "SELECT o.status, sum(o.amount) AS total, rank() OVER (ORDER BY sum(o.amount) DESC NULLS LAST, o.status) AS place FROM shop.orders o GROUP BY o.status HAVING count(*) > 3", ""),
    ("top_products", Inner, "SELECT l.product, sum(l.quantity) AS n FROM shop.line l GROUP BY l.product ORDER BY sum(l.quantity) DESC NULLS LAST, l.product LIMIT 4", ""),
    ("group_not_selected", Inner, "SELECT count(*) AS n, sum(p.amount) AS total FROM shop.payment p GROUP BY p.method", ""),
    ("dashboard", Inner, "WITH a AS (SELECT count(*) AS orders, sum(amount) AS amount FROM shop.orders), b AS (SELECT count(DISTINCT product) AS products FROM shop.line),
        c AS (SELECT avg(amount) AS mean FROM shop.payment WHERE method = 'card') SELECT a.orders, a.amount, b.products, c.mean, a.amount / nullif(b.products, 0) AS ratio FROM a CROSS JOIN b CROSS JOIN c", ""),
    ("brackets", Inner, "WITH totals AS (SELECT o.customer_id, sum(o.amount) AS total FROM shop.orders o GROUP BY o.customer_id),
        bracketed AS (SELECT CASE WHEN total > 200 THEN 'high' WHEN total > 80 THEN 'middle' ELSE 'low' END AS bracket, total FROM totals)
        SELECT bracket, count(*) AS customers, sum(total) AS total FROM bracketed GROUP BY bracket", ""),
    ("ratio_of_groups", Inner, "SELECT a.status, a.n, b.n AS customers FROM (SELECT status, count(*) AS n FROM shop.orders GROUP BY status) a
        LEFT JOIN (SELECT status, count(DISTINCT customer_id) AS n FROM shop.orders WHERE amount > 3 GROUP BY status) b ON b.status = a.status", ""),
    ("united_groups", Inner, "SELECT o.status AS label, count(*) AS n FROM shop.orders o GROUP BY o.status UNION ALL SELECT 'payments', count(*) FROM shop.payment", ""),
    (
        "constant_branch",
        Whole,
        "SELECT o.status AS label FROM shop.orders o UNION ALL SELECT 'none'",
        "",
    ),
    ("numbered", Incremental, "SELECT o.id, o.customer_id, o.amount, o.status FROM shop.orders o WHERE o.amount IS NOT NULL", ""),
    ("over_rows", Incremental, "SELECT n.id, n.amount * 2 AS double FROM read_model.numbered n WHERE n.status <> 'new'", ""),
    ("over_rows_grouped", Incremental, "SELECT n.status, count(*) AS n, sum(n.amount) AS total FROM read_model.numbered AS n GROUP BY n.status", ""),
    ("over_rows_joined", Incremental, "SELECT numbered.id, m.id AS other FROM read_model.numbered JOIN read_model.numbered m ON m.customer_id = numbered.customer_id AND m.id < numbered.id", ""),
    ("over_double", Incremental, "SELECT d.id FROM read_model.over_rows d WHERE d.double > 40", ""),
    ("payments_by_method", Incremental, "SELECT p.method, sum(p.amount) AS total, count(*) AS n FROM shop.payment p GROUP BY p.method", "group = \"methods\""),
    ("over_groups", Incremental, "SELECT b.method, b.total / nullif(b.n, 0) AS mean FROM read_model.payments_by_method b", ""),
    ("by_customer", Incremental, "SELECT o.customer_id, o.status, count(*) AS n, sum(o.amount) AS total FROM shop.orders o GROUP BY o.customer_id, o.status", ""),
    ("over_groups_grouped", Incremental, "SELECT c.n, count(*) AS groups, sum(c.total) AS total, string_agg(c.customer_id::text, ',' ORDER BY c.customer_id, c.status) AS who FROM read_model.by_customer c GROUP BY c.n", ""),
    ("over_groups_joined", Incremental, "SELECT n.id, c.total, c.n FROM read_model.numbered n LEFT JOIN read_model.by_customer c ON c.customer_id = n.customer_id AND c.status = n.status", ""),
    ("over_groups_exists", Incremental, "SELECT n.id FROM read_model.numbered n WHERE NOT EXISTS (SELECT 1 FROM read_model.by_customer c WHERE c.customer_id = n.customer_id AND c.n > 3)", ""),
    ("over_groups_self", Incremental, "SELECT a.customer_id, a.status, b.status AS other FROM read_model.by_customer a JOIN read_model.by_customer b ON a.n = b.n AND a.status < b.status", ""),
];

/// All of them, by name, query and additional TOML.
pub(crate) fn all() -> Vec<(&'static str, &'static str, &'static str)> {
    let all = [JOINS, SUBQUERIES, FROM_ITEMS, GROUPS, ACCUMULATED, CHAINS].concat();
    all.into_iter().map(|(name, _, sql, extra)| (name, sql, extra)).collect()
}

/// Commits in a run.
const COMMITS: u64 = 600;

/// … in which every projection is compared at least this often.
const COMPARISONS: u64 = 8;

fn setup(url: &str, constructs: &[Construct]) -> Setup {
    let projections: Vec<(&str, &str, &str)> = constructs.iter().map(|(name, _, sql, extra)| (*name, *sql, *extra)).collect();
    Setup::new(url, &projections)
}

async fn conforms(constructs: &[Construct], two_databases: bool) -> anyhow::Result<()> {
    let seed = seed_from_environment();
    let (source, target) = (cluster()?, two_databases.then(cluster).transpose()?);
    let mut setup = setup(&source.url("postgres"), constructs);
    "[[group]]\nname = \"methods\"\n".clone_into(&mut setup.preamble);
    setup.target_url = target.as_ref().map(|target| target.url("postgres"));
    shop(&setup.source_url).await?;
    expect_plans(&setup, constructs).await?;
    let oracle = Arc::new(Oracle::strict());
    let mut workload = Workload::start(&setup.source_url, 3, seed);
    workload.reach(20).await?;
    let mut projector = Projector::start(&setup, Some(oracle.clone()), RefreshOptions::default()).await?;
    let enough = || constructs.iter().all(|(name, ..)| oracle.of(name).compared >= COMPARISONS);
    let began = std::time::Instant::now();
    while workload.commits() < COMMITS || !enough() {
        workload.reach(workload.commits() + 20).await?;
        anyhow::ensure!(!projector.ended(), "the projector ended: {:?}", projector.end().await);
        let few: Vec<&str> =
            constructs.iter().map(|(name, ..)| *name).filter(|name| oracle.of(name).compared < COMPARISONS).collect();
        anyhow::ensure!(began.elapsed() < 3 * PATIENCE, "too few batches of {}", few.join(", "));
    }
    workload.finish().await?;
    projector.catch_up().await?;
    projector.stop().await?;
    let total = oracle.total();
    println!("{} comparisons, {} different", total.compared, total.different);
    assert_eq!(total.different, 0);
    assert_equal(&setup).await
}

/// The plans are what the specification asks for.
async fn expect_plans(setup: &Setup, constructs: &[Construct]) -> anyhow::Result<()> {
    let preflight = preflight::run(&setup.config(), Depth::Plans).await;
    anyhow::ensure!(preflight.passed(), "{}", preflight.errors(false).join("\n"));
    let found: BTreeMap<&str, String> = preflight
        .planned
        .iter()
        .filter(|planned| planned.part_of.is_none())
        .map(|planned| {
            let inner = preflight.planned.iter().any(|part| part.part_of.as_ref() == Some(&planned.plan.projection));
            let how = match (planned.plan.kind(), planned.plan.is_incremental()) {
                ("whole", _) if inner => format!("{Inner:?}"),
                ("whole", _) => format!("{Whole:?}"),
                (_, true) => format!("{Incremental:?}"),
                (_, false) => format!("{Partly:?}"),
            };
            (planned.plan.projection.as_str(), how)
        })
        .collect();
    let expected: BTreeMap<&str, String> = constructs.iter().map(|(name, how, ..)| (*name, format!("{how:?}"))).collect();
    let reasons: Vec<String> = preflight
        .planned
        .iter()
        .filter(|planned| {
            planned.part_of.is_none() && found[planned.plan.projection.as_str()] != expected[planned.plan.projection.as_str()]
        })
        .map(|planned| format!("{}: {:?}", planned.plan.projection, planned.plan.maintenance))
        .collect();
    assert_eq!(found, expected, "{}", reasons.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn joins() -> anyhow::Result<()> {
    conforms(JOINS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn subqueries() -> anyhow::Result<()> {
    conforms(SUBQUERIES, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_items() -> anyhow::Result<()> {
    conforms(FROM_ITEMS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn groups() -> anyhow::Result<()> {
    conforms(GROUPS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accumulators() -> anyhow::Result<()> {
    conforms(ACCUMULATED, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accumulators_with_two_databases() -> anyhow::Result<()> {
    conforms(ACCUMULATED, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accumulators_are_chosen_by_type() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut all = setup(&cluster.url("postgres"), ACCUMULATED);
    let recomputed = [
        ("sorted", "SELECT o.status, string_agg(o.id::text, ',' ORDER BY o.id) AS ids FROM shop.orders o GROUP BY o.status"),
        ("floating", "SELECT o.status, sum(o.amount::double precision) AS total FROM shop.orders o GROUP BY o.status"),
        ("longest", "SELECT o.customer_id, max(o.status) AS last FROM shop.orders o GROUP BY o.customer_id"),
        ("spelled", "SELECT o.amount, count(*) AS n FROM shop.orders o GROUP BY o.amount"),
        (
            "median",
            "SELECT o.status, percentile_cont(0.5) WITHIN GROUP (ORDER BY o.id) AS middle FROM shop.orders o GROUP BY o.status",
        ),
    ];
    all.projections.extend(recomputed.map(|(name, sql)| (name.to_owned(), sql.to_owned(), String::new())));
    shop(&all.source_url).await?;
    let checked = preflight::run(&all.config(), Depth::Plans).await;
    assert_eq!(checked.planned.len(), ACCUMULATED.len() + recomputed.len());
    for planned in &checked.planned {
        let Maintenance::Grouped(grouped) = &planned.plan.maintenance else { panic!("{}", planned.plan.projection) };
        let expected = !recomputed.iter().any(|(name, _)| *name == planned.plan.projection);
        assert_eq!(grouped.accumulators.is_some(), expected, "{}: {:?}", planned.plan.projection, grouped.recomputed_because);
        assert_eq!(grouped.recomputed_because.is_some(), !expected);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chains() -> anyhow::Result<()> {
    conforms(CHAINS, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_with_two_databases() -> anyhow::Result<()> {
    conforms(CHAINS, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_with_two_databases() -> anyhow::Result<()> {
    let constructs: Vec<Construct> = [JOINS, SUBQUERIES, FROM_ITEMS, GROUPS].concat().into_iter().step_by(3).collect();
    conforms(&constructs, true).await
}
