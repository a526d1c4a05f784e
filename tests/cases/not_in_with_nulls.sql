-- Met in RisingWave, Electric: NOT IN was maintained as an anti-join that knows no NULL; rows that entered the subquery moved rows in instead of out.
-- @ddl
CREATE TABLE wanted (id int PRIMARY KEY, x int, y int);
CREATE TABLE blocked (id int PRIMARY KEY, x int, y int, active boolean);
INSERT INTO wanted VALUES (1, 1, 2), (2, 2, 2), (3, 1, NULL), (4, NULL, 2), (5, NULL, NULL), (6, 7, 7);
INSERT INTO blocked VALUES (1, 1, 2, true), (2, 2, NULL, false), (3, NULL, 3, true);
-- @query uncorrelated key=id
SELECT id, x, y FROM wanted w WHERE w.y NOT IN (SELECT b.y FROM blocked b WHERE b.active)
-- @query correlated key=id
SELECT id, x, y FROM wanted w WHERE w.y NOT IN (SELECT b.y FROM blocked b WHERE b.x = w.x)
-- @query row_wise key=id
SELECT id FROM wanted w WHERE (w.x, w.y) NOT IN (SELECT b.x, b.y FROM blocked b WHERE b.active)
-- @query as_value key=id
SELECT id, y NOT IN (SELECT b.y FROM blocked b) AS fine, NOT EXISTS (SELECT FROM blocked b WHERE b.y = w.y) AS absent FROM wanted w
-- @step
UPDATE blocked SET active = true WHERE id = 2;
-- @step
UPDATE blocked SET y = 9 WHERE id = 2;
-- @step
DELETE FROM blocked WHERE active;
-- @step
INSERT INTO blocked VALUES (7, 7, NULL, true);
-- @step
UPDATE blocked SET x = NULL;
UPDATE wanted SET y = NULL WHERE id = 6;
-- @step
BEGIN;
DELETE FROM blocked;
INSERT INTO blocked VALUES (7, 1, 2, true), (8, 2, 2, NULL);
COMMIT;
-- @step
UPDATE blocked SET active = NOT coalesce(active, false);
