-- Met in Feldera, Materialize: outer joins were right for sets only: equal rows on either side had the wrong multiplicity.
-- @ddl
CREATE TABLE dl (id int PRIMARY KEY, a int, x text);
CREATE TABLE dr (id int PRIMARY KEY, b int, y text);
INSERT INTO dl VALUES (1, 1, 'l'), (2, 1, 'l'), (3, 2, 'l'), (4, 2, 'l'), (5, NULL, 'l'), (6, NULL, 'l');
INSERT INTO dr VALUES (1, 1, 'r'), (2, 3, 'r'), (3, 3, 'r'), (4, NULL, 'r');
-- @query left_bag
SELECT a, x, y FROM dl LEFT JOIN dr ON a = b
-- @query full_bag
SELECT a, b FROM dl FULL JOIN dr ON a = b
-- @query full_from_bags
SELECT l.a, r.b, l.n, r.n AS m FROM (SELECT a, count(*) AS n FROM dl GROUP BY a) l FULL JOIN (SELECT b, count(*) AS n FROM dr GROUP BY b) r ON l.a = r.b
-- @query left_with_condition
SELECT a, b, y FROM dl LEFT JOIN dr ON a = b AND y > 'm' AND x = 'l'
-- @step
INSERT INTO dr VALUES (5, 1, 'r'), (6, 2, 'r');
-- @step
DELETE FROM dl WHERE id IN (1, 3);
-- @step
UPDATE dr SET b = 1;
-- @step
UPDATE dr SET y = 'a' WHERE id % 2 = 0;
-- @step
UPDATE dl SET a = NULL WHERE id = 2;
UPDATE dr SET b = 3 WHERE id > 2;
-- @step
UPDATE dl SET a = 3, x = 'k' WHERE a IS NULL;
-- @step
DELETE FROM dr;
