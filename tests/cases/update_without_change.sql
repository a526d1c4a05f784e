-- Met in PowerSync: under REPLICA IDENTITY FULL an update without change broke the row's identity, and its later delete was lost.
-- @ddl
CREATE TABLE plain_rows (id uuid PRIMARY KEY, description text);
ALTER TABLE plain_rows REPLICA IDENTITY FULL;
CREATE TABLE bag (v int, w text);
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag VALUES (1, 'x'), (1, 'x'), (NULL, NULL);
-- @query plain_copy key=id
SELECT id, description FROM plain_rows
-- @query plain_counts
SELECT description, count(*) AS n FROM plain_rows GROUP BY description
-- @query bag_copy
SELECT v, w FROM bag
-- @query bag_counts
SELECT v, count(*) AS n, count(w) AS nw FROM bag GROUP BY v
-- @step
INSERT INTO plain_rows VALUES ('00000000-0000-0000-0000-00000000000a', 'test');
UPDATE plain_rows SET description = description;
DELETE FROM plain_rows;
-- @step
INSERT INTO plain_rows VALUES ('00000000-0000-0000-0000-00000000000b', 'test'), ('00000000-0000-0000-0000-00000000000c', NULL);
UPDATE plain_rows SET id = id;
-- @step
UPDATE bag SET v = v, w = w;
INSERT INTO bag VALUES (1, 'x'), (NULL, NULL);
-- @step
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE v = 1);
-- @step
UPDATE bag SET v = 2 WHERE ctid = (SELECT max(ctid) FROM bag WHERE v = 1);
UPDATE plain_rows SET description = 'test' WHERE description IS NULL;
-- @step
DELETE FROM bag WHERE v IS NULL;
DELETE FROM plain_rows WHERE id = '00000000-0000-0000-0000-00000000000b';
