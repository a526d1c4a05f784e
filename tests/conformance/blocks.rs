//! What cannot be seen through, and what reads it.

use super::construct::Construct;
use super::construct::How::{Incremental, Inner, Whole};

/// Windows, groups, first rows and single values that something else is made of.
pub(super) const BLOCKS: &[Construct] = &[
    ("top_two", Incremental, "SELECT s.customer_id, s.id, s.amount FROM (SELECT o.customer_id, o.id, o.amount, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.amount DESC NULLS LAST, o.id) AS place FROM shop.orders o) s
        WHERE s.place <= 2", ""),
    ("latest_of_customer", Incremental, "SELECT c.id, c.\"fullName\" AS name, l.id AS order_id, l.placed, r.name AS region FROM shop.customer c LEFT JOIN (SELECT o.customer_id, o.id, o.placed, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.placed DESC, o.id DESC) AS place FROM shop.orders o) l
        ON l.customer_id = c.id AND l.place = 1 LEFT JOIN shop.region r ON r.code = c.region_code", ""),
    ("top_counted", Incremental, "SELECT s.status, count(*) AS n, sum(s.amount) AS total FROM (SELECT o.status, o.amount, rank() OVER (PARTITION BY o.customer_id ORDER BY o.amount) AS place FROM shop.orders o) s WHERE s.place <= 2 GROUP BY s.status", ""),
    ("gaps", Incremental, "SELECT s.customer_id, max(s.gap) AS widest, count(s.gap) AS n FROM (SELECT o.customer_id, o.placed - lag(o.placed) OVER (PARTITION BY o.customer_id ORDER BY o.placed, o.id) AS gap FROM shop.orders o) s GROUP BY s.customer_id", ""),
    ("share_of_group", Incremental, "SELECT o.customer_id, o.status, sum(o.amount) AS total, round(sum(o.amount) / nullif(sum(sum(o.amount)) OVER (PARTITION BY o.customer_id), 0), 3) AS share FROM shop.orders o GROUP BY o.customer_id, o.status", ""),
    ("best_group", Incremental, "SELECT s.customer_id, s.status, s.n FROM (SELECT o.customer_id, o.status, count(*) AS n, row_number() OVER (PARTITION BY o.customer_id ORDER BY count(*) DESC, o.status) AS place FROM shop.orders o GROUP BY o.customer_id, o.status) s WHERE s.place = 1", ""),
    ("distinct_windows", Incremental, "SELECT DISTINCT o.customer_id, count(*) OVER (PARTITION BY o.customer_id) AS n, max(o.amount) OVER (PARTITION BY o.customer_id) AS most FROM shop.orders o", ""),
    ("distinct_groups", Incremental, "SELECT DISTINCT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status, o.customer_id", ""),
    ("windows_of_windows", Incremental, "SELECT t.customer_id, t.id, t.place, count(*) OVER (PARTITION BY t.customer_id, t.place % 2) AS n FROM (SELECT o.customer_id, o.id, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.id) AS place FROM shop.orders o) t", ""),
    ("row_of_two_in", Incremental, "SELECT t.id, l.product FROM (SELECT o.id, o.status, row_number() OVER (PARTITION BY o.status ORDER BY o.id) AS place FROM shop.orders o) t LEFT JOIN shop.line l ON l.position = t.place
        WHERE (t.status, l.order_id) IN (SELECT p.method, p.order_id FROM shop.payment p) OR l.order_id IS NULL", ""),
    ("among_the_best", Incremental, "SELECT c.id, EXISTS (SELECT 1 FROM (SELECT o.customer_id, o.amount, row_number() OVER (PARTITION BY o.customer_id ORDER BY o.amount DESC NULLS LAST, o.id) AS place FROM shop.orders o) s WHERE s.customer_id = c.id AND s.place = 1 AND s.amount > 50) AS big FROM shop.customer c", ""),
    ("equal_rows", Incremental, "SELECT s.status, s.n, c.tier FROM (SELECT o.status, o.customer_id, count(*) OVER (PARTITION BY o.status, o.customer_id) AS n FROM shop.orders o) s JOIN shop.customer c ON c.id = s.customer_id", ""),
    ("above_average", Incremental, "SELECT o.id, o.amount FROM shop.orders o WHERE o.amount > (SELECT avg(p.amount) FROM shop.orders p) AND o.placed >= (SELECT min(q.placed) FROM shop.orders q)", ""),
    ("with_totals", Incremental, "SELECT o.id, o.amount, t.n, t.first FROM shop.orders o CROSS JOIN (SELECT count(DISTINCT p.status) AS n, min(p.placed) AS first FROM shop.orders p) t", ""),
    ("groups_joined", Incremental, "SELECT c.id, a.n, b.total FROM shop.customer c LEFT JOIN (SELECT o.customer_id, count(*) AS n FROM shop.orders o GROUP BY o.customer_id) a ON a.customer_id = c.id
        LEFT JOIN (SELECT o.customer_id, sum(l.quantity) AS total, row_number() OVER (PARTITION BY o.customer_id ORDER BY sum(l.quantity)) AS place FROM shop.orders o JOIN shop.line l ON l.order_id = o.id GROUP BY o.customer_id, o.status) b ON b.customer_id = c.id AND b.place = 1", ""),
    ("indexed_aggregate", Incremental, "SELECT o.status, (array_agg(o.id ORDER BY o.id))[1] AS first, (array_agg(o.id ORDER BY o.id))[2:3] AS next FROM shop.orders o GROUP BY o.status", ""),
    ("newest_joined", Incremental, "SELECT o.id, c.\"fullName\" AS name, o.placed FROM shop.orders o LEFT JOIN shop.customer c ON c.id = o.customer_id WHERE o.status <> 'new' ORDER BY o.placed DESC NULLS LAST, o.amount, o.id LIMIT 7 OFFSET 1", ""),
    ("top_of_groups", Incremental, "SELECT o.status, o.customer_id, sum(o.amount) AS total FROM shop.orders o GROUP BY o.status, o.customer_id ORDER BY total DESC NULLS LAST, o.status, o.customer_id LIMIT 5", ""),
    ("over_all_rows", Inner, "SELECT s.status, s.n FROM (SELECT o.status, count(*) AS n, rank() OVER (ORDER BY count(*) DESC) AS place FROM shop.orders o GROUP BY o.status) s WHERE s.place <= 3", ""),
    ("first_elements", Whole, "SELECT b.id, unnest(b.order_ids) AS order_id FROM shop.basket b ORDER BY b.id LIMIT 4", ""),
    ("windowed_first", Incremental, "SELECT o.id, o.status, row_number() OVER (PARTITION BY o.status ORDER BY o.id DESC) AS place FROM shop.orders o ORDER BY row_number() OVER (PARTITION BY o.status ORDER BY o.id DESC), o.status, o.id LIMIT 7", ""),
    ("distinct_first", Incremental, "SELECT DISTINCT o.status, o.customer_id FROM shop.orders o ORDER BY o.customer_id NULLS FIRST, o.status LIMIT 5 OFFSET 1", ""),
    ("distinct_on_first", Incremental, "SELECT DISTINCT ON (o.status) o.status, o.id FROM shop.orders o ORDER BY o.status, o.amount DESC NULLS LAST, o.id LIMIT 2", ""),
    ("distinct_groups_first", Incremental, "SELECT DISTINCT count(*) AS n FROM shop.orders o GROUP BY o.customer_id, o.status ORDER BY count(*) DESC LIMIT 3", ""),
    ("first_without_index", Incremental, "SELECT o.id, o.amount FROM shop.orders o ORDER BY o.amount DESC NULLS LAST, o.id LIMIT 6", ""),
    ("first_filtered", Incremental, "SELECT o.status FROM shop.orders o WHERE o.amount IS NOT NULL ORDER BY o.placed DESC, o.id LIMIT 6 OFFSET 2", ""),
    ("first_in_from", Incremental, "SELECT c.id, s.amount FROM shop.customer c JOIN (SELECT o.customer_id, o.amount FROM shop.orders o ORDER BY o.amount DESC NULLS LAST, o.id LIMIT 9) s ON s.customer_id = c.id", ""),
    ("distinct_windows_from_the_second", Inner, "SELECT DISTINCT rank() OVER (PARTITION BY s.n > 3 ORDER BY s.n) AS place FROM (SELECT o.status, count(*) AS n FROM shop.orders o GROUP BY o.status) s ORDER BY 1 OFFSET 1", ""),
    ("groups_as_rows", Whole, "SELECT c.id, s.j FROM shop.customer c LEFT JOIN (SELECT t.n AS id, to_jsonb(t) AS j FROM (SELECT count(*) AS n FROM shop.orders o GROUP BY o.customer_id) t) s ON s.id = c.id", ""),
    ("value_beside_a_count", Whole, "SELECT count(*) AS n, (SELECT max(o.amount) FROM shop.orders o) AS most FROM shop.payment p WHERE p.id < 3", ""),
];
