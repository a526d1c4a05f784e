-- Met in several: EXISTS counted its rows twice, or was lost under OR; a correlated count stayed where it should fall to 0; IN over two columns compared the first alone; an emptied inner side left rows.
-- @ddl
CREATE TABLE item (id int PRIMARY KEY, a int, b int, label text);
CREATE TABLE mark (id int PRIMARY KEY, a int, b int, kind text);
INSERT INTO item VALUES (1, 1, 1, 'x'), (2, 1, 2, 'y'), (3, 2, 1, NULL), (4, NULL, 1, 'n'), (5, 5, 5, 'none');
INSERT INTO mark VALUES (1, 1, 1, 'p'), (2, 1, 1, 'p'), (3, 1, 2, 'q'), (4, NULL, 1, 'p'), (5, 2, NULL, 'q');
-- @query once key=id
SELECT i.id FROM item i WHERE EXISTS (SELECT FROM mark m WHERE m.a = i.a)
-- @query under_or key=id
SELECT i.id FROM item i WHERE i.label = 'none' OR EXISTS (SELECT FROM mark m WHERE m.a = i.a AND m.kind = 'q') OR NOT EXISTS (SELECT FROM mark m WHERE m.b = i.b)
-- @query counted key=id
SELECT i.id, (SELECT count(*) FROM mark m WHERE m.a = i.a) AS n, (SELECT max(m.kind) FROM mark m WHERE m.a = i.a AND m.b = i.b) AS kind FROM item i
-- @query pairs key=id
SELECT i.id, (i.a, i.b) IN (SELECT m.a, m.b FROM mark m) AS known FROM item i
-- @query pairs_filtered key=id
SELECT i.id FROM item i WHERE (i.a, i.b) IN (SELECT m.a, m.b FROM mark m WHERE m.kind = 'p')
-- @query any_of key=id
SELECT i.id, i.a > ANY (SELECT m.b FROM mark m WHERE m.kind = i.label) AS above, i.a >= ALL (SELECT m.b FROM mark m WHERE m.a = i.a) AS at_least FROM item i
-- @query nested key=id
SELECT i.id FROM item i WHERE i.a IN (SELECT m.a FROM mark m WHERE NOT EXISTS (SELECT FROM item j WHERE j.b = m.b AND j.label IS NULL))
-- @step
DELETE FROM mark WHERE id = 1;
-- @step
UPDATE mark SET b = 2 WHERE id = 2;
-- @step
BEGIN;
UPDATE item SET a = 2 WHERE id = 1;
UPDATE mark SET a = 5, b = 5 WHERE id = 3;
COMMIT;
-- @step
UPDATE mark SET kind = CASE kind WHEN 'p' THEN 'q' ELSE 'p' END;
-- @step
DELETE FROM mark;
-- @step
INSERT INTO mark VALUES (9, NULL, NULL, NULL);
UPDATE item SET label = NULL WHERE id = 5;
-- @step
INSERT INTO mark SELECT n, n % 6, n % 3, 'p' FROM generate_series(10, 20) AS n;
