-- Met in Turso: a chain of joins with USING showed the common column once a table instead of merged.
-- @ddl
CREATE TABLE ua (a int PRIMARY KEY, x text);
CREATE TABLE ub (a int PRIMARY KEY, y text);
CREATE TABLE uc (a int PRIMARY KEY, z text);
INSERT INTO ua VALUES (1, 'x1'), (2, 'x2'), (3, 'x3');
INSERT INTO ub VALUES (2, 'y2'), (3, 'y3'), (4, 'y4');
INSERT INTO uc VALUES (3, 'z3'), (4, 'z4'), (5, 'z5');
-- @query inner_using
SELECT * FROM ua JOIN ub USING (a) JOIN uc USING (a)
-- @query full_using key=a
SELECT a, x, y, z FROM ua FULL JOIN ub USING (a) FULL JOIN uc USING (a)
-- @query natural_left
SELECT a, x, y, z FROM ua NATURAL LEFT JOIN ub LEFT JOIN uc USING (a)
-- @step
DELETE FROM ub WHERE a = 3;
-- @step
INSERT INTO ua VALUES (5, 'x5'), (6, 'x6');
-- @step
UPDATE uc SET a = 6 WHERE a = 3;
-- @step
BEGIN;
DELETE FROM ua WHERE a = 6;
INSERT INTO ub VALUES (6, 'y6');
COMMIT;
-- @step
UPDATE ub SET a = a + 100;
-- @step
UPDATE ub SET a = a - 100;
DELETE FROM uc;
