-- Met in RisingWave, Dolt: a correlated ARRAY(SELECT …) became NULL instead of empty; LEFT JOIN LATERAL with LIMIT lost rows without matches.
-- @ddl
CREATE TABLE shops (id int PRIMARY KEY, name text, lim int);
CREATE TABLE sales (id int PRIMARY KEY, shop_id int, amount int, note text);
INSERT INTO shops VALUES (1, 'a', 2), (2, 'b', 1), (3, 'c', NULL);
INSERT INTO sales VALUES (1, 1, 10, 'x'), (2, 1, 20, 'y'), (3, 1, 20, 'z'), (4, 2, NULL, 'n');
-- @query notes_of key=id
SELECT s.id, ARRAY(SELECT l.note FROM sales l WHERE l.shop_id = s.id ORDER BY l.id) AS notes FROM shops s
-- @query top_two
SELECT s.id, t.sale_id, t.amount FROM shops s LEFT JOIN LATERAL (SELECT l.id AS sale_id, l.amount FROM sales l WHERE l.shop_id = s.id ORDER BY l.amount DESC NULLS LAST, l.id LIMIT 2) t ON true
-- @query top_own_limit
SELECT s.id, t.sale_id FROM shops s JOIN LATERAL (SELECT l.id AS sale_id FROM sales l WHERE l.shop_id = s.id ORDER BY l.amount, l.id LIMIT s.lim OFFSET 1) t ON true
-- @query best key=id
SELECT DISTINCT ON (s.id) s.id, s.name, l.amount, l.note FROM shops s LEFT JOIN sales l ON l.shop_id = s.id ORDER BY s.id, l.amount DESC NULLS LAST, l.id
-- @query overall_top
SELECT id, amount FROM sales ORDER BY amount DESC NULLS LAST, id LIMIT 2
-- @step
DELETE FROM sales WHERE id = 2;
-- @step
INSERT INTO sales VALUES (5, 3, 1, NULL), (6, 1, 99, 'top');
-- @step
UPDATE sales SET shop_id = 2 WHERE id = 6;
-- @step
UPDATE sales SET amount = NULL WHERE shop_id = 1;
-- @step
UPDATE shops SET lim = 0 WHERE id = 1;
UPDATE shops SET id = 4 WHERE id = 3;
-- @step
DELETE FROM sales WHERE shop_id = 2;
-- @step
UPDATE sales SET shop_id = 4, amount = 7;
