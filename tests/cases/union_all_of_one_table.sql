-- Met in Turso: UNION ALL of a table with itself returned each row once.
-- @ddl
CREATE TABLE src (id int PRIMARY KEY, a int);
-- @query doubled
SELECT a FROM src UNION ALL SELECT a FROM src
-- @query tripled
SELECT a, count(*) AS n FROM (SELECT a FROM src UNION ALL SELECT a FROM src WHERE a > 1 UNION ALL SELECT a + 1 FROM src) u GROUP BY a
-- @query mixed
(SELECT a FROM src UNION SELECT a * 2 FROM src) UNION ALL SELECT a FROM src WHERE a IS NULL
-- @step
INSERT INTO src VALUES (1, 1), (2, 2), (3, 3);
-- @step
INSERT INTO src VALUES (4, 2), (5, NULL);
-- @step
UPDATE src SET a = 2 WHERE id = 3;
-- @step
DELETE FROM src WHERE id = 2;
-- @step
UPDATE src SET id = id + 10, a = coalesce(a, 0) + 1;
-- @step
DELETE FROM src WHERE a = 3;
