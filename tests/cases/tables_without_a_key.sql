-- Tables without a key: the hash of the whole row identifies it, and equal rows are counted.
-- @ddl
CREATE TABLE guarded_by (id int PRIMARY KEY);
CREATE TABLE noted (n int, note text);
ALTER TABLE noted REPLICA IDENTITY FULL;
INSERT INTO guarded_by VALUES (7), (8);
INSERT INTO noted VALUES (1, '7'), (2, 'no number');
CREATE TABLE bag (v int, w text, n numeric, j jsonb);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag VALUES (1, 'x', 1.0, '{"a": 1}'), (1, 'x', 1.0, '{"a": 1}'), (1, 'x', 1.00, '{"a": 1.0}'), (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL),
    (2, E'q"u\\o,t)e', 2, '"s"'), (3, '', 'NaN', '[1, "two", null]');
CREATE TABLE keyed (id int PRIMARY KEY, v int, label text);
INSERT INTO keyed SELECT n, n % 4, 'k' || n FROM generate_series(1, 8) n;
INSERT INTO keyed VALUES (10, 0, '1.0!'), (11, 0, '1.00!'), (12, 0, '1.000!');
CREATE TABLE loose (id int, note text);
ALTER TABLE loose REPLICA IDENTITY FULL;
INSERT INTO loose VALUES (1, 'one'), (1, 'one'), (1, 'another'), (NULL, 'none'), (3, NULL);
-- @query guarded
SELECT k.id, b.note FROM guarded_by k LEFT JOIN noted b ON b.note::int = k.id AND b.n = (SELECT 1)
-- @query bag_rows
SELECT v, w, n, j FROM bag
-- @query bag_some
SELECT w, n FROM bag WHERE v IS NOT NULL
-- @query bag_groups
SELECT v, count(*) AS c, sum(n) AS total, string_agg(w, ',' ORDER BY w) AS ws FROM bag GROUP BY v
-- @query bag_of_all
SELECT count(*) AS c, count(w) AS ws, max(v) AS last FROM bag
-- @query bag_distinct
SELECT DISTINCT v, w FROM bag
-- @query bag_as_root
SELECT b.v, b.w, k.id, k.label FROM bag b LEFT JOIN keyed k ON k.id = b.v
-- @query bag_as_link
SELECT k.id, k.label, b.w, b.n FROM keyed k LEFT JOIN bag b ON b.v = k.v
-- @query bag_as_link_of_text
SELECT k.id, l.note FROM keyed k JOIN loose l ON upper(l.note) = upper(k.label)
-- @query bag_by_expression
SELECT k.id, l.note FROM keyed k JOIN loose l ON l.id + 1 = k.v
-- @query spelled
SELECT k.id, b.w FROM keyed k LEFT JOIN bag b ON b.n::text || '!' = k.label
-- @query both_loose
SELECT b.v, b.w, l.note FROM bag b JOIN loose l ON l.id = b.v
-- @query bag_exists
SELECT k.id FROM keyed k WHERE EXISTS (SELECT 1 FROM bag b WHERE b.v = k.v AND b.n > 1)
-- @query bag_not_in
SELECT k.id FROM keyed k WHERE k.v NOT IN (SELECT l.id FROM loose l)
-- @query bag_counts_of_key
SELECT k.id, (SELECT count(*) FROM bag b WHERE b.v = k.v) AS c FROM keyed k
-- @query bag_ranked
SELECT v, w, n, row_number() OVER (PARTITION BY v ORDER BY w, n::text) AS place FROM bag
-- @query bag_union
SELECT v, w FROM bag UNION ALL SELECT id, note FROM loose
-- @query bag_except
SELECT v FROM bag EXCEPT ALL SELECT id FROM loose
-- @query bag_full
SELECT b.v, b.w, l.id, l.note FROM bag b FULL JOIN loose l ON l.id = b.v
-- @step
INSERT INTO noted VALUES (1, '8'), (1, '8');
DELETE FROM noted WHERE note = '7';
INSERT INTO bag VALUES (1, 'x', 1.0, '{"a": 1}'), (NULL, NULL, NULL, NULL), (4, 'new', -0.5, 'null');
INSERT INTO loose VALUES (4, E'back\\slash "quoted"'), (2, 'k3');
-- @step
UPDATE bag SET w = 'y' WHERE ctid = (SELECT min(ctid) FROM bag WHERE v = 1);
UPDATE loose SET note = 'changed' WHERE ctid = (SELECT max(ctid) FROM loose WHERE note = 'one');
-- @step
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE v = 1 AND w = 'x');
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE v IS NULL);
-- @step
UPDATE bag SET n = 1.000, j = '{"a": 1.00}' WHERE ctid = (SELECT min(ctid) FROM bag WHERE v = 1 AND w = 'x');
-- @step
INSERT INTO bag VALUES (1, 'x', 1.0, '{"a": 1}');
-- @step
DELETE FROM bag WHERE n::text = '1.000';
-- @step
UPDATE bag SET v = v, w = w;
UPDATE bag SET v = 3 WHERE v = 2;
-- @step
UPDATE keyed SET v = 1, label = 'moved' WHERE id IN (2, 3);
DELETE FROM loose WHERE id IS NULL;
-- @step
BEGIN; INSERT INTO bag VALUES (9, 'gone', 9, NULL); DELETE FROM bag WHERE v = 9; UPDATE loose SET id = NULL WHERE id = 3; COMMIT;
-- @step
UPDATE bag SET v = NULL WHERE v = 1;
UPDATE keyed SET v = 3 WHERE v IS NULL OR v = 0;
-- @step
TRUNCATE loose;
INSERT INTO loose VALUES (3, 'after'), (3, 'after');
-- @step
INSERT INTO bag SELECT n % 5, 'm' || n % 3, n % 2, to_jsonb(n % 4) FROM generate_series(1, 200) n;
-- @step
DELETE FROM bag WHERE v = 3;
UPDATE bag SET n = n + 1 WHERE v = 2;
-- @step
DELETE FROM bag;
