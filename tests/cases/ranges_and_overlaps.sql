-- Met in several: joins by a range were refused, or recomputed from one side alone; an interval that moved left rows where it had been.
-- @ddl
CREATE TABLE price (id int PRIMARY KEY, item int, low int, high int, during daterange, label text);
CREATE TABLE sale (id int PRIMARY KEY, item int, n int, on_day date, tags int[], path text);
CREATE TABLE step (n int PRIMARY KEY, name text);
CREATE TABLE folder (id int PRIMARY KEY, prefix text, wants int[], area box);
CREATE TABLE place (id int PRIMARY KEY, at point);
CREATE INDEX ON sale USING gin (tags);
INSERT INTO price VALUES (1, 1, 0, 10, '[2026-01-01,2026-02-01)', 'a'), (2, 1, 10, 20, '[2026-01-15,2026-03-01)', 'b'), (3, 2, NULL, 5, NULL, 'c'), (4, 2, 5, NULL, 'empty', NULL);
INSERT INTO sale VALUES (1, 1, 5, '2026-01-10', '{1,2}', 'a/b'), (2, 1, 10, '2026-01-20', '{2,3}', 'a/c'), (3, 2, 3, '2026-02-20', NULL, 'b'), (4, 2, NULL, NULL, '{}', NULL), (5, NULL, 30, '2026-05-01', '{9}', 'a');
INSERT INTO step VALUES (3, 'three'), (10, 'ten'), (20, 'twenty');
INSERT INTO folder VALUES (1, 'a', '{1}', '(2,2),(0,0)'), (2, 'a/', '{2,3}', '(4,4),(1,1)'), (3, NULL, NULL, NULL), (4, '', '{}', '(1,1),(0,0)');
INSERT INTO place VALUES (1, '(1,1)'), (2, '(3,3)'), (3, NULL);
-- @query by_bounds
SELECT s.id, p.id AS price FROM sale s JOIN price p ON p.low <= s.n AND s.n < p.high
-- @query left_by_bounds
SELECT s.id, p.label FROM sale s LEFT JOIN price p ON s.n BETWEEN p.low AND p.high
-- @query by_price key=price,sale
SELECT p.id AS price, s.id AS sale FROM price p JOIN sale s ON s.n >= p.low AND s.n <= p.high
-- @query in_range
SELECT s.id, p.id AS price FROM sale s JOIN price p ON p.during @> s.on_day
-- @query contained key=id
SELECT s.id, (SELECT string_agg(p.label, ',' ORDER BY p.id) FROM price p WHERE s.on_day <@ p.during) AS labels FROM sale s
-- @query overlapping
SELECT a.id, b.id AS other FROM price a JOIN price b ON a.during && b.during AND a.id < b.id
-- @query any_overlap key=id
SELECT a.id, EXISTS (SELECT FROM price b WHERE b.during && a.during AND b.id <> a.id) AS contested, a.item NOT IN (SELECT s.item FROM sale s WHERE s.n > a.high) AS quiet FROM price a
-- @query by_key
SELECT s.id, t.name FROM sale s LEFT JOIN step t ON t.n <= s.n
-- @query last_step key=id
SELECT s.id, t.name FROM sale s LEFT JOIN LATERAL (SELECT t.name FROM step t WHERE t.n <= s.n ORDER BY t.n DESC LIMIT 1) t ON true
-- @query by_tags
SELECT f.id, s.id AS sale FROM folder f LEFT JOIN sale s ON s.tags @> f.wants
-- @query sharing_tags key=id
SELECT f.id, (SELECT count(*) FROM sale s WHERE s.tags && f.wants) AS n FROM folder f
-- @query by_prefix
SELECT s.id, f.id AS folder FROM sale s JOIN folder f ON s.path LIKE f.prefix || '%'
-- @query by_start
SELECT f.id, s.id AS sale FROM folder f LEFT JOIN sale s ON s.path ^@ f.prefix
-- @query in_area
SELECT a.id, f.id AS folder FROM place a JOIN folder f ON a.at <@ f.area
-- @query after_left
SELECT s.id, p.id AS price, t.name FROM sale s LEFT JOIN price p ON p.item = s.item LEFT JOIN step t ON t.n > p.low AND t.n < s.n + p.high
-- @query where_after_left
SELECT s.id, p.id AS price FROM sale s LEFT JOIN price p ON p.low < s.n WHERE p.high > s.n OR p.item = s.item
-- @query beyond_what_is_not_there
SELECT s.id, p.id AS price, t.name FROM sale s LEFT JOIN price p ON p.item = s.item LEFT JOIN step t ON t.n < coalesce(p.low, 15)
-- @query nulls_kept_away
SELECT s.id, t.n FROM sale s LEFT JOIN step t ON t.n <= s.n AND t.n > s.n - 2 WHERE coalesce(t.n, 0) < s.n
-- @query beyond
SELECT s.id, t.name, p.label FROM sale s JOIN step t ON t.n >= s.n JOIN price p ON p.low = t.n
-- @query either
SELECT s.id, p.id AS price FROM sale s LEFT JOIN price p ON p.item = s.item OR p.low = s.n
-- @query two_of_one_side
SELECT s.id, p.id AS price FROM sale s JOIN price p ON p.high - p.low > s.n
-- @query both_sides_mixed
SELECT s.id, p.id AS price FROM sale s JOIN price p ON p.low + s.n = p.high
-- @query counted
SELECT t.name, count(s.id) AS n, sum(s.n) AS total FROM step t LEFT JOIN sale s ON s.n <= t.n GROUP BY t.name
-- @query of_groups
SELECT s.id, g.low, g.n FROM sale s JOIN (SELECT p.low, count(*) AS n FROM price p GROUP BY p.low) g ON g.low <= s.n
-- @query rows_compared
SELECT s.id, p.id AS price FROM sale s JOIN price p ON (p.item, p.low) < (s.item, s.n)
-- @step
UPDATE price SET low = 4, high = 6 WHERE id = 2;
-- @step
UPDATE price SET during = '[2026-02-01,2026-06-01)' WHERE id IN (1, 4);
-- @step
UPDATE sale SET n = n + 5, on_day = on_day + 20 WHERE id < 4;
-- @step
BEGIN;
UPDATE price SET low = NULL WHERE id = 1;
UPDATE sale SET n = 0 WHERE id = 5;
INSERT INTO step VALUES (0, 'none');
COMMIT;
-- @step
UPDATE folder SET prefix = 'b', wants = '{9}', area = '(9,9),(2,2)' WHERE id = 1;
UPDATE place SET at = '(0.5,0.5)' WHERE id = 2;
-- @step
-- A box is compared by its size: another place of the same size is another box all the same.
UPDATE folder SET area = '(3,3),(1,1)' WHERE id = 1;
UPDATE folder SET area = '(1,1),(-1,-1)' WHERE id = 1;
-- @step
DELETE FROM step WHERE n = 10;
UPDATE step SET n = 11 WHERE n = 20;
-- @step
UPDATE sale SET tags = '{2,3,9}', path = 'a/b/c' WHERE id IN (4, 5);
UPDATE sale SET item = 2, n = 7 WHERE id = 5;
-- @step
DELETE FROM price WHERE id < 3;
DELETE FROM folder;
-- @step
INSERT INTO price VALUES (9, 1, -5, 100, '(,)', 'all');
INSERT INTO folder VALUES (9, 'a', '{}', '(100,100),(-100,-100)');
-- @step
DELETE FROM sale;
DELETE FROM step;
