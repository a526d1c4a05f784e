-- Met in several: equal rows without a key, names in mixed case or of expressions, generated columns, infinities and NaN, long keys, keys with NULL in them, and a row that goes and comes back in one batch.
-- @ddl
CREATE TABLE "Mixed Case" ("Id" int PRIMARY KEY, "select" text, total int, doubled int GENERATED ALWAYS AS (total * 2) STORED, f float8, d date, n numeric);
CREATE TABLE doc (path text, part int, body text, UNIQUE (path, part));
ALTER TABLE doc REPLICA IDENTITY FULL;
CREATE TABLE wide (k text PRIMARY KEY, v text);
INSERT INTO "Mixed Case" ("Id", "select", total, f, d, n) VALUES (1, 'a', 1, 'NaN', 'infinity', 'NaN'), (2, 'a', 1, '-Infinity', '-infinity', 1.10), (3, NULL, NULL, 0, NULL, 1.1), (4, 'b', 2, -0.0, '2024-02-29', NULL);
INSERT INTO doc VALUES ('p', 1, 'x'), ('p', NULL, 'x'), ('p', NULL, 'x'), (NULL, 1, 'y'), (NULL, NULL, NULL);
INSERT INTO wide SELECT repeat(md5(n::text), 60) || n, 'v' || n FROM generate_series(1, 4) AS n;
-- @query mixed key=Id
SELECT "Id", "select", doubled, f, d, n FROM "Mixed Case"
-- @query mixed_total
SELECT "select" AS "sum", sum(total) AS "Total", count(*) AS count, max(d) AS last FROM "Mixed Case" GROUP BY "select"
-- @query bag
SELECT "select", total FROM "Mixed Case"
-- @query by_number
SELECT f, count(*) AS n FROM "Mixed Case" WHERE f <> 0 GROUP BY f
-- @query parts
SELECT path, part, body FROM doc
-- @query by_part
SELECT path, part, count(*) AS n, count(body) AS bodies FROM doc GROUP BY path, part
-- @query long key=k
SELECT k, v FROM wide
-- @query by_long
SELECT k || v AS kv, count(*) AS n FROM wide GROUP BY k || v
-- @step
BEGIN;
DELETE FROM "Mixed Case" WHERE "Id" = 1;
INSERT INTO "Mixed Case" ("Id", "select", total, f) VALUES (1, 'back', 5, 'Infinity'), (5, 'a', 1, 'NaN');
DELETE FROM "Mixed Case" WHERE "Id" = 5;
COMMIT;
-- @step
UPDATE "Mixed Case" SET total = 1, "select" = 'a';
-- @step
UPDATE doc SET part = 7 WHERE ctid = (SELECT min(ctid) FROM doc WHERE part IS NULL AND path = 'p');
-- @step
DELETE FROM doc WHERE path IS NULL AND part IS NULL;
UPDATE wide SET k = left(k, 5) WHERE v = 'v1';
-- @step
BEGIN;
SAVEPOINT a;
DELETE FROM "Mixed Case";
ROLLBACK TO SAVEPOINT a;
UPDATE "Mixed Case" SET "Id" = "Id" + 100 WHERE "Id" < 3;
COMMIT;
-- @step
TRUNCATE doc, wide;
-- @step
INSERT INTO doc VALUES ('p', 1, 'x');
ALTER TABLE "Mixed Case" ADD COLUMN "sum" int DEFAULT 4;
UPDATE "Mixed Case" SET d = NULL, n = 2;
