-- Met in pg_trickle: a group vanished when a node of a tree was renamed and a member below it deleted before the next refresh.
-- @ddl
CREATE TABLE units (id int PRIMARY KEY, parent int REFERENCES units DEFERRABLE INITIALLY DEFERRED, name text);
CREATE TABLE staff (id int PRIMARY KEY, unit_id int, pay numeric(10,2));
INSERT INTO units VALUES (1, NULL, 'Firm'), (2, 1, 'Eng'), (3, 2, 'Backend'), (4, 2, 'Web'), (5, 1, 'Sales');
INSERT INTO staff VALUES (1, 3, 100.50), (2, 3, 200), (3, 4, 150), (4, 5, 90), (5, NULL, 10);
-- @query unit_tree key=id
WITH RECURSIVE t AS (SELECT id, name AS path, 0 AS depth FROM units WHERE parent IS NULL UNION ALL SELECT u.id, t.path || ' > ' || u.name, t.depth + 1 FROM units u JOIN t ON u.parent = t.id) SELECT id, path, depth FROM t
-- @query unit_stats
WITH RECURSIVE t AS (SELECT id, name AS path FROM units WHERE parent IS NULL UNION ALL SELECT u.id, t.path || ' > ' || u.name FROM units u JOIN t ON u.parent = t.id) SELECT t.id, t.path, count(s.id) AS heads, coalesce(sum(s.pay), 0) AS pay FROM t LEFT JOIN staff s ON s.unit_id = t.id GROUP BY t.id, t.path
-- @query below_eng
WITH RECURSIVE r(id) AS (SELECT id FROM units WHERE id = 2 UNION SELECT u.id FROM units u JOIN r ON u.parent = r.id) SELECT s.id, s.pay FROM staff s WHERE s.unit_id IN (SELECT id FROM r)
-- @step
BEGIN;
UPDATE units SET name = 'R&D' WHERE id = 2;
DELETE FROM staff WHERE id = 2;
COMMIT;
-- @step
UPDATE units SET parent = 5 WHERE id = 3;
-- @step
UPDATE units SET parent = 3 WHERE id = 1;
-- @step
UPDATE units SET parent = NULL WHERE id IN (1, 5);
UPDATE staff SET unit_id = 2 WHERE unit_id IS NULL;
-- @step
BEGIN;
UPDATE units SET id = 20 WHERE id = 2;
UPDATE units SET parent = 20 WHERE parent = 2;
COMMIT;
-- @step
INSERT INTO units VALUES (6, 4, 'Icons');
INSERT INTO staff VALUES (6, 6, 1.005);
-- @step
DELETE FROM units WHERE id IN (4, 6);
