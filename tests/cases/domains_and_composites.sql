-- Met in PowerSync, pg_ivm: domains, composites and arrays of enums or boxes differed between the first copy and the stream, or their updates failed.
-- @types
CREATE DOMAIN rating AS int CHECK (VALUE BETWEEN 1 AND 5);
CREATE DOMAIN short_code AS varchar(4) NOT NULL;
CREATE TYPE shade AS ENUM ('dark', 'light');
CREATE TYPE pair AS (xs int[], label text, tone shade);
CREATE TYPE nested AS (ok boolean, inner_pair pair);
-- @ddl
CREATE TABLE kinds (code short_code PRIMARY KEY, r rating, p pair, n nested, ps pair[], tones shade[], boxes box[]);
INSERT INTO kinds VALUES ('a', 3, ROW('{2,3}', 'bar', 'dark'), ROW(true, ROW('{2}', 'q"u,o', NULL)::pair), ARRAY[ROW(NULL, NULL, NULL)::pair], '{light,dark}', '{(3,4),(1,2);(7,8),(5,6)}'), ('b', NULL, NULL, NULL, NULL, NULL, NULL);
-- @query kind_rows key=code
SELECT code, r, p, n, ps, tones, boxes FROM kinds
-- @query kind_parts key=code
SELECT code, (p).xs[1] AS x1, (p).label, ((n).inner_pair).label AS deep, (ps[1]).tone AS t, r + 1 AS r1 FROM kinds
-- @query by_pair
SELECT p, count(*) AS c, max(r) AS hi FROM kinds GROUP BY p
-- @query by_rating
SELECT r, array_agg(code ORDER BY code) AS codes FROM kinds GROUP BY r
-- @step
UPDATE kinds SET p.label = 'baz', r = 5 WHERE code = 'a';
-- @step
INSERT INTO kinds VALUES ('c', 5, ROW('{2,3}', 'baz', 'dark'), ROW(NULL, NULL), '{}', '{}', NULL);
-- @step
UPDATE kinds SET p = ROW(NULL, NULL, NULL), ps = ps || ROW('{}', '', 'light')::pair WHERE code = 'b';
-- @step
UPDATE kinds SET code = 'd' WHERE code = 'c';
-- @step
UPDATE kinds SET p.tone = 'light', tones = tones || 'dark'::shade WHERE r = 5;
-- @step
ALTER TYPE pair ADD ATTRIBUTE extra int;
UPDATE kinds SET p.extra = 9 WHERE code = 'a';
-- @step
DELETE FROM kinds WHERE code = 'a';
UPDATE kinds SET r = NULL;
