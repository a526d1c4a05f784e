-- Met here: a block of the first few of each partition held all of them. Ties, NULLs, places that move across the limit, joins that say it.
-- @ddl
CREATE TABLE runs (id int PRIMARY KEY, track text, seconds int, note text);
CREATE TABLE tracks (name text PRIMARY KEY, length int);
INSERT INTO runs SELECT i, CASE i % 4 WHEN 0 THEN NULL ELSE 'track ' || i % 4 END, nullif(i * 7 % 10, 5), 'n' || i FROM generate_series(1, 60) AS i;
INSERT INTO tracks VALUES ('track 1', 10), ('track 2', NULL), ('track 9', 4);
-- @query alone
SELECT r.track, r.id, r.place FROM (SELECT track, id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) r WHERE r.place <= 3
-- @query tied
SELECT r.track, r.id FROM (SELECT track, id, seconds, rank() OVER (PARTITION BY track ORDER BY seconds DESC NULLS LAST) AS place FROM runs) r WHERE 2 >= r.place
-- @query dense
SELECT r.track, count(*) AS n, max(r.seconds) AS most FROM (SELECT track, seconds, dense_rank() OVER (PARTITION BY track ORDER BY seconds) AS place FROM runs) r WHERE r.place < 3 GROUP BY r.track
-- @query between
SELECT r.id, r.note FROM (SELECT id, note, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) r WHERE r.place BETWEEN 2 AND 3
-- @query hidden
SELECT r.id, r.place FROM (SELECT id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) r WHERE r.place = 1
-- @query joined
SELECT t.name, r.id, r.seconds FROM tracks t LEFT JOIN (SELECT track, id, seconds, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) r ON r.track = t.name AND r.place <= 2
-- @query nullable
SELECT t.name, r.id FROM tracks t LEFT JOIN (SELECT track, id, rank() OVER (PARTITION BY track ORDER BY seconds) AS place FROM runs) r ON r.track = t.name WHERE r.place <= 2 OR r.place IS NULL
-- @query preserved
SELECT t.length, r.id, r.place FROM (SELECT track, id, rank() OVER (PARTITION BY track ORDER BY seconds) AS place FROM runs) r LEFT JOIN tracks t ON t.name = r.track AND r.place <= 2
-- @query both_ways
SELECT a.id, b.id AS next FROM (SELECT track, id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) a JOIN (SELECT track, id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) b ON b.track = a.track AND b.place = a.place + 1 WHERE a.place <= 2
-- @query never
SELECT r.id, r.place FROM (SELECT id, track, rank() OVER (PARTITION BY track ORDER BY seconds) AS place FROM runs) r WHERE r.place <= NULL::bigint
-- @query two_ranks
SELECT r.track, r.id, r.place, r.other FROM (SELECT track, id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place, rank() OVER (PARTITION BY track ORDER BY note) AS other FROM runs) r WHERE r.place <= 4 AND r.other <= 9
-- @query of_groups
SELECT r.track, r.seconds, r.n FROM (SELECT track, seconds, count(*) AS n, row_number() OVER (PARTITION BY track ORDER BY count(*) DESC, seconds) AS place FROM runs GROUP BY track, seconds) r WHERE r.place <= 2
-- @query whole_row
SELECT t.name, r.id, to_jsonb(r) AS j FROM tracks t JOIN (SELECT track, id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) AS place FROM runs) r ON r.track = t.name WHERE r.place <= 2
-- @query renamed
SELECT r.a, r.c FROM (SELECT track, id, row_number() OVER (PARTITION BY track ORDER BY seconds, id) FROM runs) r (a, b, c) WHERE r.c <= 2
-- @step
UPDATE runs SET seconds = -1 WHERE id IN (41, 44);
-- @step
DELETE FROM runs WHERE id IN (41, 1, 2, 3);
-- @step
UPDATE runs SET track = 'track 2' WHERE track = 'track 1' AND id > 30;
-- @step
INSERT INTO runs VALUES (100, 'track 9', NULL, NULL), (101, 'track 9', NULL, NULL), (102, 'track 9', 3, 'x'), (103, NULL, -7, 'y');
-- @step
UPDATE runs SET seconds = NULL WHERE track = 'track 2';
-- @step
UPDATE runs SET seconds = 1 WHERE track = 'track 2' AND id % 2 = 0;
-- @step
DELETE FROM runs WHERE track = 'track 9';
-- @step
UPDATE runs SET id = 1000 - id;
-- @step
DELETE FROM tracks WHERE name = 'track 2'; DELETE FROM runs WHERE track IS NULL;
-- @step
TRUNCATE runs;
-- @step
INSERT INTO runs VALUES (1, 'track 1', 2, 'a'), (2, 'track 1', 1, 'b');
