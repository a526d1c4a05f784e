-- Met here: whether a type can be hashed was asked with a NULL of it, which a domain may refuse; then a key of that domain was refused.
-- @types
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TYPE part AS (code text, n int);
CREATE DOMAIN code AS varchar(6) NOT NULL CHECK (VALUE <> '');
CREATE DOMAIN short AS code CHECK (length(VALUE) < 5);
CREATE DOMAIN grade AS int NOT NULL CHECK (VALUE > 0);
CREATE DOMAIN amount AS numeric(10,2) NOT NULL;
CREATE DOMAIN tags AS text[] NOT NULL;
CREATE DOMAIN tint AS colour NOT NULL;
CREATE DOMAIN piece AS part NOT NULL;
CREATE DOMAIN document AS json NOT NULL;
CREATE DOMAIN plain AS text COLLATE "C";
-- @ddl
CREATE TABLE things (id short PRIMARY KEY, g grade, a amount, t tags, c tint, p piece, d document, w plain);
CREATE TABLE uses (id int PRIMARY KEY, thing varchar(6), n int, list short[]);
CREATE TABLE tones (c tint PRIMARY KEY, n int);
INSERT INTO tones VALUES ('red', 1);
INSERT INTO things VALUES ('a', 1, 1.5, '{x}', 'red', '(q,1)', '{}', 'b'), ('b', 2, 2.25, '{}', 'green', '(r,2)', '[]', 'B'), ('c', 2, 7, '{x,y}', 'red', '(q,1)', '1', 'b');
INSERT INTO uses VALUES (1, 'a', 1, '{a,b}'), (2, 'a', 2, '{}'), (3, 'z', 3, NULL), (4, NULL, 4, '{c}');
-- @query rows key=id
SELECT id, g, a, t, c, p, d, w FROM things
-- @query keyed key=code,n
SELECT t.id AS code, u.n, t.d FROM things t JOIN uses u ON u.thing = t.id
-- @query missing key=id
SELECT u.id, t.id AS code, t.g, t.a, t.t, t.c, t.p, t.w FROM uses u LEFT JOIN things t ON t.id = u.thing
-- @query unmatched
SELECT t.id, count(*) AS n, sum(u.n) AS s FROM uses u LEFT JOIN things t ON t.id = u.thing GROUP BY t.id
-- @query by_grade
SELECT g, count(*) AS n, sum(g) AS s, avg(a) AS mean, sum(a) AS total, max(a) AS most, min(c::colour) AS tone FROM things GROUP BY g
-- @query by_tags
SELECT t, count(*) AS n FROM things GROUP BY t
-- @query by_tint
SELECT c, p, w, count(DISTINCT g) AS grades FROM things GROUP BY c, p, w
-- @query distinct_amounts
SELECT DISTINCT a, c FROM things
-- @query by_list
SELECT list, count(*) AS n FROM uses GROUP BY list
-- @query toned key=c
SELECT c, n FROM tones
-- @query windowed key=id
SELECT id, g, row_number() OVER (PARTITION BY g ORDER BY a, id) AS place FROM things
-- @step
INSERT INTO things VALUES ('d', 3, 7, '{}', 'green', '(,)', 'null', 'é');
-- @step
UPDATE things SET g = 3, c = 'red' WHERE id = 'b';
-- @step
INSERT INTO things VALUES ('z', 3, 0.5, '{z}', 'red', '(q,1)', '{}', 'z');
-- @step
DELETE FROM things WHERE id = 'a';
-- @step
UPDATE uses SET thing = 'b', list = '{d}' WHERE id IN (1, 4);
-- @step
UPDATE things SET id = 'y', a = 7 WHERE id = 'z';
-- @step
UPDATE tones SET c = 'green';
INSERT INTO tones VALUES ('red', 2);
-- @step
DELETE FROM tones WHERE c::colour = 'green';
DELETE FROM things;
