-- Recursions of every kind: trees by key and by another column, graphs with circles and with several ways to one node, bills of
-- material over two tables, chains upwards, steps that join more, several anchors; rows that move, circles that come and go, keys that change.
-- @ddl
CREATE TABLE node (id int PRIMARY KEY, parent int, code text, under text, kind int, weight numeric(8,2));
CREATE TABLE kind (id int PRIMARY KEY, label text NOT NULL);
CREATE TABLE edge (a int, b int, cost int, PRIMARY KEY (a, b));
CREATE TABLE product (sku text PRIMARY KEY, price numeric(8,2));
CREATE TABLE component (id int PRIMARY KEY, parent text, child text, quantity int);
CREATE VIEW folder AS SELECT id, parent, code FROM node WHERE kind = 1;
CREATE INDEX ON node (parent);
CREATE INDEX ON component (parent);
INSERT INTO kind VALUES (1, 'folder'), (2, 'file');
INSERT INTO node VALUES (1, NULL, 'a', NULL, 1, 1), (2, 1, 'b', 'a', 1, 2), (3, 2, 'c', 'b', 2, 3), (4, 2, 'd', 'b', NULL, 4), (5, NULL, 'e', NULL, 1, 5),
  (6, 5, 'f', 'e', 2, 6), (7, 99, 'g', 'zz', 2, 7);
INSERT INTO edge VALUES (1, 2, 1), (2, 3, 1), (1, 3, 5), (3, 4, 1), (7, 8, 1);
INSERT INTO product VALUES ('bike', 100), ('wheel', 20), ('spoke', 1), ('tube', 3);
INSERT INTO component VALUES (1, 'bike', 'wheel', 2), (2, 'wheel', 'spoke', 36), (3, 'wheel', 'tube', 1), (4, 'bike', 'tube', 1);
-- @query tree
WITH RECURSIVE t AS (SELECT id, code AS path, 0 AS depth FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.path || '/' || n.code, t.depth + 1 FROM node n JOIN t ON n.parent = t.id) SELECT id, path, depth FROM t
-- @query tree_keyed key=id
WITH RECURSIVE t(node, way, depth) AS (SELECT id, ARRAY[id], 0 FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.way || n.id, t.depth + 1 FROM t, node n WHERE n.parent = t.node AND NOT n.id = ANY (t.way)) SELECT x.node AS id, x.way, x.depth * 2 AS twice FROM t x WHERE x.depth < 3
-- @query tree_renamed
WITH RECURSIVE t AS (SELECT id, code, 0 AS depth FROM node WHERE parent IS NULL UNION ALL SELECT n.id, n.code, t.depth + 1 FROM node n JOIN t ON n.parent = t.id) SELECT x.number, x.depth FROM t AS x(number)
-- @query by_code
WITH RECURSIVE t AS (SELECT id, code, weight AS total FROM node WHERE under IS NULL UNION ALL SELECT n.id, n.code, (t.total + n.weight)::numeric(8,2) FROM node n JOIN t ON n.under = t.code) SELECT id, total FROM t
-- @query with_kinds
WITH RECURSIVE t AS (SELECT n.id, k.label AS path FROM node n JOIN kind k ON k.id = n.kind WHERE n.parent IS NULL UNION ALL SELECT n.id, t.path || '/' || coalesce(k.label, '?') FROM t JOIN node n ON n.parent = t.id LEFT JOIN kind k ON k.id = n.kind) SELECT id, path FROM t
-- @query no_key_selected
WITH RECURSIVE t AS (SELECT id, code AS path FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.path || '/' || n.code FROM node n JOIN t ON n.parent = t.id) SELECT path, length(path) AS long FROM t WHERE path <> 'e'
-- @query two_anchors
WITH RECURSIVE t AS (SELECT id, 'root' AS why FROM node WHERE parent IS NULL UNION ALL SELECT id, 'two' FROM node WHERE kind = 2 UNION ALL SELECT n.id, t.why || '+' FROM node n JOIN t ON n.parent = t.id WHERE length(t.why) < 9) SELECT id, why FROM t
-- @query ancestors
WITH RECURSIVE t AS (SELECT id AS start, id, parent FROM node UNION SELECT t.start, n.id, n.parent FROM t JOIN node n ON n.id = t.parent) SELECT start, id FROM t
-- @query reachable
WITH RECURSIVE r AS (SELECT a, b FROM edge UNION SELECT r.a, e.b FROM r JOIN edge e ON e.a = r.b) SELECT a, b FROM r
-- @query ways
WITH RECURSIVE r AS (SELECT a, b, cost, 1 AS hops FROM edge UNION ALL SELECT r.a, e.b, r.cost + e.cost, r.hops + 1 FROM r JOIN edge e ON e.a = r.b WHERE r.hops < 4) SELECT a, b, cost, hops FROM r
-- @query parts
WITH RECURSIVE bom AS (SELECT p.sku, p.sku AS part, 1 AS quantity FROM product p UNION ALL SELECT b.sku, c.child, b.quantity * c.quantity FROM bom b JOIN component c ON c.parent = b.part) SELECT sku, part, quantity FROM bom
-- @query part_totals
WITH RECURSIVE bom AS (SELECT p.sku, p.sku AS part, 1 AS quantity FROM product p UNION ALL SELECT b.sku, c.child, b.quantity * c.quantity FROM bom b JOIN component c ON c.parent = b.part) SELECT b.sku, sum(b.quantity * p.price) AS cost, count(*) AS parts FROM bom b JOIN product p ON p.sku = b.part GROUP BY b.sku
-- @query below_one
WITH RECURSIVE t AS (SELECT id FROM node WHERE id = 2 UNION SELECT n.id FROM node n JOIN t ON n.parent = t.id) SELECT n.id, n.code FROM node n WHERE n.id IN (SELECT id FROM t)
-- @query counted
WITH RECURSIVE t AS (SELECT id, id AS top FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.top FROM node n JOIN t ON n.parent = t.id) SELECT top, count(*) AS below FROM t GROUP BY top
-- @query reached
WITH RECURSIVE r AS (SELECT a, b FROM edge UNION SELECT r.a, e.b FROM r JOIN edge e ON e.a = r.b) SELECT r.b FROM r
-- @query sums
WITH RECURSIVE r AS (SELECT a, b FROM edge UNION SELECT r.a, e.b FROM r JOIN edge e ON e.a = r.b) SELECT b AS reached, a + b AS total FROM r
-- @query of_some
WITH RECURSIVE v AS (SELECT id, parent FROM node WHERE kind = 1), t AS (SELECT id, 0 AS depth FROM v WHERE parent IS NULL UNION ALL SELECT v.id, t.depth + 1 FROM v JOIN t ON v.parent = t.id) SELECT id, depth FROM t
-- @query of_a_view
WITH RECURSIVE t AS (SELECT id, code AS path FROM folder WHERE parent IS NULL UNION ALL SELECT f.id, t.path || f.code FROM folder f JOIN t ON f.parent = t.id) SELECT path FROM t
-- @query as_rows
WITH RECURSIVE t AS (SELECT id, 0 AS depth FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.depth + 1 FROM t JOIN node n ON n.parent = t.id) SELECT id, to_jsonb(t) AS j FROM t
-- @query taken_name
WITH RECURSIVE lockstep_above AS (SELECT id, 0 AS lockstep_k1 FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.lockstep_k1 + 1 FROM lockstep_above t JOIN node n ON n.parent = t.id) SELECT id, lockstep_k1 AS depth FROM lockstep_above
-- @query beside
WITH RECURSIVE t AS (SELECT id, 0 AS depth FROM node WHERE parent IS NULL UNION ALL SELECT n.id, t.depth + 1 FROM node n JOIN t ON n.parent = t.id) SELECT n.id, t.depth FROM node n LEFT JOIN t ON t.id = n.id
-- @step
UPDATE node SET code = 'B' WHERE id = 2;
-- @step
UPDATE node SET parent = 5, under = 'e' WHERE id = 2;
-- @step
-- A circle that nothing leads to.
UPDATE node SET parent = 3, under = 'c' WHERE id = 2;
-- @step
UPDATE node SET parent = NULL WHERE id = 3;
-- @step
BEGIN;
UPDATE node SET parent = 2, under = 'B' WHERE id = 3;
UPDATE node SET parent = 1, under = 'a' WHERE id = 2;
COMMIT;
-- @step
INSERT INTO node VALUES (99, 1, 'zz', 'a', 1, 9), (8, 7, 'h', 'g', 2, 8);
-- @step
DELETE FROM node WHERE id = 99;
-- @step
BEGIN;
UPDATE node SET id = 20 WHERE id = 2;
UPDATE node SET parent = 20 WHERE id = 4;
COMMIT;
-- @step
UPDATE kind SET label = 'dir' WHERE id = 1;
DELETE FROM kind WHERE id = 2;
-- @step
UPDATE edge SET cost = 7 WHERE a = 2;
INSERT INTO edge VALUES (4, 5, 1), (8, 9, 2);
-- @step
-- A circle.
INSERT INTO edge VALUES (4, 1, 1);
-- @step
DELETE FROM edge WHERE (a, b) = (1, 2);
-- @step
DELETE FROM edge WHERE (a, b) IN ((4, 1), (3, 4));
-- @step
UPDATE component SET quantity = 32 WHERE id = 2;
INSERT INTO product VALUES ('rim', 9);
INSERT INTO component VALUES (5, 'wheel', 'rim', 1), (6, 'rim', 'spoke', 0), (7, NULL, 'rim', 1), (8, 'rim', NULL, 1);
-- @step
UPDATE component SET parent = 'bike' WHERE id = 5;
DELETE FROM product WHERE sku = 'wheel';
-- @step
UPDATE product SET sku = 'cycle' WHERE sku = 'bike';
UPDATE component SET parent = 'cycle' WHERE parent = 'bike';
-- @step
DELETE FROM node;
TRUNCATE edge;
-- @step
INSERT INTO node VALUES (2, 1, 'b', 'a', 1, 2), (1, NULL, 'a', NULL, 1, 1);
INSERT INTO edge VALUES (1, 1, 1);
