-- Met in RisingWave, Flink: NOT IN over several columns was an anti-join on all of them; a row with a NULL in one column stops only those that agree in the others.
-- @ddl
CREATE TABLE wish (id int PRIMARY KEY, a int, b int, c int NOT NULL);
CREATE TABLE taken (id int PRIMARY KEY, a int, b int, c int NOT NULL, active boolean);
CREATE TABLE spot (a int, b int, note text, PRIMARY KEY (a, b));
CREATE TABLE owner (id int PRIMARY KEY, a int);
INSERT INTO wish VALUES (1, 1, 2, 1), (2, 2, 2, 1), (3, 1, NULL, 1), (4, NULL, 2, 2), (5, NULL, NULL, 2), (6, 7, 7, 3);
INSERT INTO taken VALUES (1, 1, 2, 1, true), (2, 2, NULL, 1, false), (3, NULL, 3, 2, true), (4, NULL, NULL, 3, false);
INSERT INTO spot VALUES (1, 2, 'x'), (2, 1, NULL), (7, 8, 'y');
INSERT INTO owner VALUES (1, 1), (2, 2), (3, NULL), (4, 9);
-- @query two key=id
SELECT w.id FROM wish w WHERE (w.a, w.b) NOT IN (SELECT t.a, t.b FROM taken t WHERE t.active)
-- @query two_as_value key=id
SELECT w.id, (w.a, w.b) NOT IN (SELECT t.a, t.b FROM taken t) AS free, (w.a, w.b) IN (SELECT t.b, t.a FROM taken t WHERE t.active) AS crossed FROM wish w
-- @query three key=id
SELECT w.id, (w.a, w.b, w.c) <> ALL (SELECT t.a, t.b, t.c FROM taken t WHERE t.active) AS free, (w.a, w.b, w.a) NOT IN (SELECT t.a, t.b, t.b FROM taken t) AS thrice FROM wish w
-- @query all_one key=id
SELECT w.id FROM wish w WHERE w.a <> ALL (SELECT t.a FROM taken t WHERE t.active)
-- @query correlated key=id
SELECT w.id, (w.a, w.b) NOT IN (SELECT t.a, t.b FROM taken t WHERE t.c = w.c) AS free FROM wish w
-- @query by_key key=id
SELECT w.id, (w.a, w.b) NOT IN (SELECT s.a, s.b FROM spot s WHERE s.note IS NOT NULL) AS free FROM wish w
-- @query by_half_a_key key=id
SELECT w.id, w.b NOT IN (SELECT s.b FROM spot s WHERE s.a = w.a) AS free, (w.a, 2) NOT IN (SELECT s.a, s.b FROM spot s) AS two FROM wish w
-- @query outer_member key=id
SELECT w.id, (w.a, w.b) NOT IN (SELECT t.a, o.id FROM taken t LEFT JOIN owner o ON o.a = t.b) AS free FROM wish w
-- @query of_a_union key=id
SELECT w.id, w.a NOT IN (SELECT t.a FROM taken t UNION SELECT o.a FROM owner o) AS free FROM wish w
-- @query of_joined_value key=id
SELECT w.id, (w.a, o.a) NOT IN (SELECT t.a, t.b FROM taken t) AS free FROM wish w LEFT JOIN owner o ON o.id = w.a
-- @step
UPDATE taken SET active = true WHERE id = 2;
-- @step
UPDATE taken SET b = 9 WHERE id = 2;
UPDATE spot SET note = 'z';
-- @step
DELETE FROM taken WHERE id = 3;
DELETE FROM owner WHERE id = 3;
-- @step
UPDATE taken SET active = true WHERE id = 4;
-- @step
UPDATE taken SET a = 7 WHERE id = 4;
INSERT INTO spot VALUES (7, 7, 'w');
-- @step
UPDATE taken SET a = NULL, b = 7 WHERE id = 4;
DELETE FROM spot WHERE a = 7;
-- @step
DELETE FROM taken;
DELETE FROM spot;
-- @step
INSERT INTO taken VALUES (9, NULL, NULL, 9, true);
-- @step
UPDATE wish SET a = NULL WHERE id = 1;
UPDATE wish SET b = 5, a = 5 WHERE id = 5;
INSERT INTO spot VALUES (3, 3, 'n');
-- @step
BEGIN;
DELETE FROM taken;
INSERT INTO taken VALUES (7, 1, 2, 1, true), (8, 2, 2, 2, NULL);
INSERT INTO owner VALUES (5, 2);
COMMIT;
-- @step
UPDATE taken SET active = NOT coalesce(active, false);
DELETE FROM owner;
