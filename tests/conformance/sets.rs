//! Set operations, grouping sets and joins that merge columns, by themselves and inside each other.

use super::construct::Construct;
use super::construct::How::{Incremental, Inner, Whole};

/// Several SELECTs, or several groupings of one, that are a single result.
pub(super) const SETS: &[Construct] = &[
    (
        "arms_that_group",
        Incremental,
        "SELECT o.status AS label, count(*) AS n FROM shop.orders o GROUP BY o.status UNION ALL SELECT p.method, count(*) FROM shop.payment p GROUP BY p.method UNION ALL SELECT r.name, NULL FROM shop.region r",
        "",
    ),
    (
        "intersect_rows",
        Incremental,
        "SELECT o.customer_id FROM shop.orders o INTERSECT SELECT c.id FROM shop.customer c WHERE c.tier < 3",
        "",
    ),
    (
        "intersect_all",
        Incremental,
        "SELECT o.status, o.customer_id FROM shop.orders o INTERSECT ALL SELECT o.status, o.customer_id + 1 FROM shop.orders o WHERE o.amount > 20",
        "",
    ),
    (
        "except_all",
        Incremental,
        "SELECT l.product FROM shop.line l EXCEPT ALL SELECT l.product FROM shop.line l WHERE l.quantity > 3",
        "",
    ),
    (
        "union_in_union_all",
        Incremental,
        "(SELECT o.customer_id FROM shop.orders o UNION SELECT c.id FROM shop.customer c) UNION ALL SELECT p.order_id FROM shop.payment p",
        "",
    ),
    (
        "nested_set_operations",
        Incremental,
        "(SELECT o.customer_id FROM shop.orders o EXCEPT ALL SELECT c.id FROM shop.customer c) UNION ALL (SELECT c.id FROM shop.customer c INTERSECT SELECT o.customer_id FROM shop.orders o WHERE o.status = 'paid')",
        "",
    ),
    (
        "set_operation_joined",
        Incremental,
        "SELECT s.id, c.\"fullName\" AS name FROM (SELECT o.customer_id AS id FROM shop.orders o EXCEPT SELECT o.customer_id FROM shop.orders o WHERE o.status = 'paid') s LEFT JOIN shop.customer c ON c.id = s.id",
        "",
    ),
    (
        "grouped_arms",
        Incremental,
        "SELECT o.customer_id, count(*) AS n FROM shop.orders o GROUP BY o.customer_id EXCEPT SELECT c.id, 2 FROM shop.customer c",
        "",
    ),
    ("full_using", Incremental, "SELECT id, o.amount, p.method FROM shop.orders o FULL JOIN shop.payment p USING (id)", ""),
    (
        "full_using_grouped",
        Incremental,
        "SELECT customer_id, count(*) AS n, max(o.amount) AS most, max(s.n) AS m FROM shop.orders o FULL JOIN (SELECT c.id AS customer_id, c.tier AS n FROM shop.customer c) s USING (customer_id) GROUP BY customer_id",
        "",
    ),
    (
        "cube",
        Incremental,
        "SELECT o.status, o.customer_id, count(*) AS n, sum(o.amount) AS total, grouping(o.status, o.customer_id) AS level, coalesce(o.status, 'all') AS label FROM shop.orders o GROUP BY CUBE (o.status, o.customer_id) HAVING count(*) > 1",
        "",
    ),
    (
        "grouping_sets",
        Incremental,
        "SELECT c.region_code, o.status, max(o.placed) AS latest FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id GROUP BY GROUPING SETS ((c.region_code, o.status), (o.status), (o.status), ())",
        "",
    ),
    (
        "cube_windowed",
        Inner,
        "SELECT o.status, count(*) AS n, sum(count(*)) OVER () AS total FROM shop.orders o GROUP BY CUBE (o.status)",
        "",
    ),
    (
        "rollup_distinct",
        Incremental,
        "SELECT DISTINCT count(*) AS n FROM shop.orders o GROUP BY ROLLUP (o.status, o.customer_id)",
        "",
    ),
    (
        "rollup_ranked",
        Incremental,
        "SELECT o.status, o.customer_id, count(*) AS n, grouping(o.status, o.customer_id) AS level, rank() OVER (PARTITION BY grouping(o.status, o.customer_id), o.status ORDER BY count(*)) AS place FROM shop.orders o GROUP BY ROLLUP (o.status, o.customer_id) HAVING count(*) > 1",
        "",
    ),
    (
        "rollup_of_expressions",
        Incremental,
        "SELECT upper(o.status) AS u, o.status, length(upper(o.status)) AS long, count(*) AS n FROM shop.orders o GROUP BY ROLLUP (upper(o.status), o.status)",
        "",
    ),
    (
        "sets_of_expressions",
        Incremental,
        "SELECT o.customer_id, o.customer_id + 1 AS next, count(*) AS n FROM shop.orders o GROUP BY GROUPING SETS ((o.customer_id), (o.customer_id + 1))",
        "",
    ),
    (
        "rollup_first",
        Incremental,
        "SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY ROLLUP (o.status) ORDER BY count(*) DESC, o.status NULLS FIRST LIMIT 2",
        "",
    ),
    (
        "rollup_of_a_row",
        Whole,
        "SELECT ROW(o.status, o.customer_id)::text AS t, count(*) AS n FROM shop.orders o GROUP BY ROLLUP (ROW(o.status, o.customer_id))",
        "",
    ),
    (
        "rollup_of_some",
        Incremental,
        "SELECT o.status, count(*) AS n FROM shop.orders o WHERE o.status <> 'new' GROUP BY ROLLUP (o.status)",
        "",
    ),
    (
        "rollup_with_a_subquery",
        Whole,
        "SELECT c.id, c.tier, count(*) AS n, (SELECT max(o.id) FROM shop.orders o WHERE o.customer_id = c.tier) AS most FROM shop.customer c GROUP BY GROUPING SETS ((c.id, c.tier), (c.id))",
        "",
    ),
    (
        "equal_rows_joined",
        Incremental,
        "SELECT c.id, s.n FROM shop.customer c LEFT JOIN (SELECT o.customer_id AS a, 1 AS n FROM shop.orders o UNION ALL SELECT p.order_id, 1 FROM shop.payment p) s ON s.a = c.id",
        "",
    ),
    (
        "spellings_joined",
        Incremental,
        "SELECT c.id, s.n FROM shop.customer c LEFT JOIN (SELECT o.amount::numeric AS n FROM shop.orders o UNION ALL SELECT trim_scale(p.amount) FROM shop.payment p) s ON s.n::text = c.id::text",
        "",
    ),
    (
        "nested_of_two_types",
        Whole,
        "(SELECT o.id FROM shop.orders o EXCEPT SELECT p.order_id FROM shop.payment p) UNION ALL SELECT p.amount::double precision FROM shop.payment p",
        "",
    ),
];
