-- Met in Feldera, RisingWave: lag and lead were wrong after changes at either end of a partition, and for the offset 0.
-- @ddl
CREATE TABLE ticks (id int PRIMARY KEY, p text, t int, v int);
INSERT INTO ticks VALUES (1, 'a', 10, 1), (2, 'a', 20, 2), (3, 'a', 30, NULL), (4, 'b', 10, 4), (5, NULL, 1, 5);
-- @query neighbours key=id
SELECT id, p, t, v, lag(v) OVER w AS prev, lead(v, 2, -1) OVER w AS next2, lag(v, 0) OVER w AS same, first_value(v) OVER w AS first, v - lag(v) OVER w AS diff FROM ticks WINDOW w AS (PARTITION BY p ORDER BY t, id)
-- @query moving key=id
SELECT id, sum(v) OVER (PARTITION BY p ORDER BY t ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS s3, count(*) OVER (PARTITION BY p ORDER BY t RANGE BETWEEN 10 PRECEDING AND CURRENT ROW) AS near, last_value(v) OVER (PARTITION BY p ORDER BY t GROUPS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS last, ntile(2) OVER (PARTITION BY p ORDER BY t) AS half FROM ticks
-- @query gaps
SELECT p, max(gap) AS widest FROM (SELECT p, t - lag(t) OVER (PARTITION BY p ORDER BY t, id) AS gap FROM ticks) s GROUP BY p
-- @step
INSERT INTO ticks VALUES (6, 'a', 5, 0);
-- @step
INSERT INTO ticks VALUES (7, 'a', 40, 7), (8, 'a', 25, 8);
-- @step
DELETE FROM ticks WHERE id = 6;
-- @step
UPDATE ticks SET t = 50 WHERE id = 1;
-- @step
UPDATE ticks SET p = 'b' WHERE id IN (2, 5);
-- @step
UPDATE ticks SET id = 100 - id, v = coalesce(v, 0);
-- @step
DELETE FROM ticks WHERE p = 'b' AND t > 1;
