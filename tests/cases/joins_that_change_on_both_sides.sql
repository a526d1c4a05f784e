-- Met in several: both sides of a join changed in one transaction were counted twice, three joined tables emptied at once left rows, and a statement that touched parent and child of one table missed one of them.
-- @ddl
CREATE TABLE region (code text PRIMARY KEY, name text);
CREATE TABLE shop (id int PRIMARY KEY, region text REFERENCES region DEFERRABLE INITIALLY DEFERRED, name text);
CREATE TABLE sale (id int PRIMARY KEY, shop int, amount int, note text);
CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node DEFERRABLE INITIALLY DEFERRED, v int);
INSERT INTO region VALUES ('n', 'North'), ('s', 'South');
INSERT INTO shop VALUES (1, 'n', 'a'), (2, 's', 'b'), (3, NULL, 'c');
INSERT INTO sale VALUES (1, 1, 10, 'x'), (2, 1, 20, NULL), (3, 2, 5, 'y'), (4, NULL, 7, 'z'), (5, 9, 8, 'w');
INSERT INTO node VALUES (1, NULL, 1), (2, 1, 2), (3, 1, 3), (4, 2, 4);
-- @query three_inner
SELECT s.id AS sale, h.name, r.name AS region, s.amount FROM sale s JOIN shop h ON h.id = s.shop JOIN region r ON r.code = h.region
-- @query three_left key=sale
SELECT s.id AS sale, h.name, r.name AS region FROM sale s LEFT JOIN shop h ON h.id = s.shop LEFT JOIN region r ON r.code = h.region
-- @query unmatched key=id
SELECT h.id, s.id AS sale FROM shop h LEFT JOIN sale s ON s.shop = h.id AND s.amount > 9 WHERE s.id IS NULL
-- @query by_region
SELECT r.code, count(s.id) AS n, sum(s.amount) AS total FROM region r LEFT JOIN shop h ON h.region = r.code LEFT JOIN sale s ON s.shop = h.id GROUP BY r.code
-- @query parents key=id
SELECT c.id, c.v, p.v AS of_parent, g.v AS of_grandparent FROM node c LEFT JOIN node p ON p.id = c.parent LEFT JOIN node g ON g.id = p.parent
-- @query siblings
SELECT a.id, b.id AS other FROM node a JOIN node b ON b.parent = a.parent AND b.id <> a.id
-- @query full_self
SELECT a.id, b.id AS child FROM node a FULL JOIN node b ON b.parent = a.id
-- @query over_cross
SELECT h.id, x.code, x.v FROM shop h LEFT JOIN (SELECT r.code, n.v FROM region r CROSS JOIN node n WHERE n.v < 3) x ON x.code = h.region
-- @step
BEGIN;
INSERT INTO shop VALUES (4, 's', 'd');
INSERT INTO sale VALUES (6, 4, 100, 'new'), (7, 4, 1, 'new');
UPDATE region SET name = 'Far South' WHERE code = 's';
COMMIT;
-- @step
UPDATE node SET v = v + 10 WHERE id IN (1, 2, 4);
-- @step
BEGIN;
UPDATE sale SET shop = 2 WHERE id = 1;
UPDATE shop SET region = NULL WHERE id = 2;
UPDATE region SET name = upper(name);
COMMIT;
-- @step
UPDATE sale SET note = NULL;
-- @step
BEGIN;
UPDATE node SET id = 20 WHERE id = 2;
UPDATE node SET parent = 20 WHERE parent = 2;
DELETE FROM node WHERE id = 3;
COMMIT;
-- @step
BEGIN;
DELETE FROM sale WHERE id IN (2, 6);
DELETE FROM shop WHERE id = 4;
DELETE FROM region WHERE code = 's';
COMMIT;
-- @step
UPDATE sale SET shop = 4 WHERE shop IS NULL;
INSERT INTO shop VALUES (4, 'n', 'again');
-- @step
BEGIN;
DELETE FROM sale;
DELETE FROM shop;
DELETE FROM region;
DELETE FROM node;
COMMIT;
-- @step
BEGIN;
INSERT INTO node VALUES (1, NULL, NULL);
INSERT INTO region VALUES ('e', NULL);
INSERT INTO shop VALUES (1, 'e', NULL);
INSERT INTO sale VALUES (1, 1, NULL, NULL);
COMMIT;
