//! What makes rows of groups, and what reads other projections.

use super::construct::Construct;
use super::construct::How::{Incremental, Inner, Whole};

pub(super) const GROUPS: &[Construct] = &[
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
        Incremental,
        "SELECT o.status, o.customer_id, count(*) AS n FROM shop.orders o GROUP BY ROLLUP (o.status, o.customer_id)",
        "",
    ),
    ("except_rows", Incremental, "SELECT o.customer_id FROM shop.orders o EXCEPT SELECT c.id FROM shop.customer c", ""),
];

/// Aggregates that are accumulated. The casts to text make the comparison see decimals, which equality of numbers does not.
pub(super) const ACCUMULATED: &[Construct] = &[
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
pub(super) const CHAINS: &[Construct] = &[
    ("growth", Inner, "WITH daily AS (SELECT o.placed, sum(o.amount) AS total, count(*) AS n FROM shop.orders o GROUP BY o.placed)
        SELECT d.placed, d.total, d.total - lag(d.total) OVER (ORDER BY d.placed) AS growth, round(d.n / sum(d.n) OVER (), 3) AS share FROM daily d", ""),
    ("growth_in_one", Inner, "SELECT o.status, sum(o.amount) AS total, rank() OVER (ORDER BY sum(o.amount) DESC NULLS LAST, o.status) AS place FROM shop.orders o GROUP BY o.status HAVING count(*) > 3", ""),
    ("top_products", Incremental, "SELECT l.product, sum(l.quantity) AS n FROM shop.line l GROUP BY l.product ORDER BY sum(l.quantity) DESC NULLS LAST, l.product LIMIT 4", ""),
    ("group_not_selected", Incremental, "SELECT count(*) AS n, sum(p.amount) AS total FROM shop.payment p GROUP BY p.method", ""),
    ("dashboard", Incremental, "WITH a AS (SELECT count(*) AS orders, sum(amount) AS amount FROM shop.orders), b AS (SELECT count(DISTINCT product) AS products FROM shop.line),
        c AS (SELECT avg(amount) AS mean FROM shop.payment WHERE method = 'card') SELECT a.orders, a.amount, b.products, c.mean, a.amount / nullif(b.products, 0) AS ratio FROM a CROSS JOIN b CROSS JOIN c", ""),
    ("brackets", Incremental, "WITH totals AS (SELECT o.customer_id, sum(o.amount) AS total FROM shop.orders o GROUP BY o.customer_id),
        bracketed AS (SELECT CASE WHEN total > 200 THEN 'high' WHEN total > 80 THEN 'middle' ELSE 'low' END AS bracket, total FROM totals)
        SELECT bracket, count(*) AS customers, sum(total) AS total FROM bracketed GROUP BY bracket", ""),
    ("ratio_of_groups", Incremental, "SELECT a.status, a.n, b.n AS customers FROM (SELECT status, count(*) AS n FROM shop.orders GROUP BY status) a
        LEFT JOIN (SELECT status, count(DISTINCT customer_id) AS n FROM shop.orders WHERE amount > 3 GROUP BY status) b ON b.status = a.status", ""),
    ("united_groups", Incremental, "SELECT o.status AS label, count(*) AS n FROM shop.orders o GROUP BY o.status UNION ALL SELECT 'payments', count(*) FROM shop.payment", ""),
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
