-- Met in RisingWave, pg_trickle: EXCEPT ALL and INTERSECT ALL were refused, or their multiplicities were wrong.
-- @ddl
CREATE TABLE sa (id int PRIMARY KEY, v int, w text);
CREATE TABLE sb (id int PRIMARY KEY, v int, w text);
INSERT INTO sa VALUES (1, 1, 'x'), (2, 1, 'x'), (3, 2, 'y'), (4, NULL, NULL), (5, NULL, NULL);
INSERT INTO sb VALUES (1, 1, 'x'), (2, NULL, NULL), (3, 3, 'z');
-- @query except_all
SELECT v, w FROM sa EXCEPT ALL SELECT v, w FROM sb
-- @query intersect_all
SELECT v, w FROM sa INTERSECT ALL SELECT v, w FROM sb
-- @query except_set
SELECT v FROM sa EXCEPT SELECT v FROM sb
-- @query nested_sets
(SELECT v FROM sa INTERSECT SELECT v FROM sb) UNION ALL (SELECT v FROM sb EXCEPT SELECT v FROM sa)
-- @query counted_except
SELECT count(*) AS n FROM (SELECT v FROM sa EXCEPT ALL SELECT v FROM sb) d
-- @step
INSERT INTO sb VALUES (4, 1, 'x');
-- @step
DELETE FROM sa WHERE id = 4;
-- @step
INSERT INTO sb VALUES (5, 1, 'x'), (6, NULL, NULL);
UPDATE sb SET v = 2, w = 'y' WHERE id = 3;
-- @step
UPDATE sa SET v = NULL;
-- @step
UPDATE sa SET w = NULL;
-- @step
DELETE FROM sb WHERE v IS NULL;
-- @step
BEGIN;
DELETE FROM sb;
INSERT INTO sb SELECT id + 100, v, w FROM sa;
COMMIT;
