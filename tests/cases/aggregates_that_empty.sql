-- Met in several: a sum did not return to NULL, an extremum stayed after its row went, distinct counts after deletes, groups of NULL, HAVING crossed in both directions, an average that lost its decimals.
-- @ddl
CREATE TABLE entry (id int PRIMARY KEY, g int, kind text, n int, amount numeric, ratio float8, weight numeric(10,3));
INSERT INTO entry VALUES (1, 1, 'a', 1, 1.0, 0.1, 1.5), (2, 1, 'b', NULL, 1.00, 0.2, NULL), (3, 1, 'a', 3, NULL, 0.3, 2.25), (4, NULL, 'a', 4, 2.5, NULL, 1), (5, NULL, NULL, NULL, NULL, 1e300, NULL), (6, 2, 'c', 9, 'NaN', 'Infinity', 0);
CREATE TABLE other (id int PRIMARY KEY, g int, x int);
INSERT INTO other VALUES (1, 1, 5), (2, 3, 7), (3, NULL, 9);
-- @query sums
SELECT g, sum(n) AS s, count(n) AS c, count(*) AS rows, avg(weight)::text AS mean, min(n) AS low, max(n) AS high FROM entry GROUP BY g
-- @query distincts
SELECT g, count(DISTINCT kind) AS kinds, count(DISTINCT n) FILTER (WHERE n > 1) AS above, sum(DISTINCT n) AS s FROM entry GROUP BY g
-- @query of_all
SELECT count(*) AS rows, sum(n) AS s, max(amount)::text AS top, bool_and(n > 0) AS all_positive, array_agg(id ORDER BY id) AS ids FROM entry
-- @query crossing
SELECT g, sum(n) AS s FROM entry GROUP BY g HAVING sum(n) > 3 AND count(*) < 4
-- @query cases
SELECT kind, sum(CASE WHEN n > 2 THEN n ELSE 0 END) AS big, string_agg(id::text, ',' ORDER BY n DESC NULLS LAST, id) AS ids FROM entry WHERE weight IS NOT NULL OR n IS NULL GROUP BY kind
-- @query over_full
SELECT coalesce(e.g, o.g) AS g, sum(e.n) AS n, sum(o.x) AS x FROM entry e FULL JOIN other o ON o.g = e.g GROUP BY coalesce(e.g, o.g)
-- @query exact
SELECT g, sum(weight)::text AS w, avg(weight)::text AS m FROM entry GROUP BY g
-- @step
UPDATE entry SET n = NULL WHERE g = 1;
-- @step
DELETE FROM entry WHERE id = 6;
INSERT INTO entry VALUES (7, 2, 'c', 2, 3, 0.5, 0.001), (8, 2, 'd', 2, 3.000, 0.5, 9);
-- @step
UPDATE entry SET g = 1, kind = 'b', n = 10 WHERE id IN (4, 8);
-- @step
UPDATE entry SET n = n - 9 WHERE n = 10;
-- @step
DELETE FROM entry WHERE g IS NULL;
-- @step
BEGIN;
UPDATE entry SET g = NULL;
UPDATE other SET g = NULL WHERE id = 2;
COMMIT;
-- @step
DELETE FROM entry;
-- @step
INSERT INTO entry VALUES (1, NULL, NULL, NULL, NULL, NULL, NULL);
