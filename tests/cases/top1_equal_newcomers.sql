-- Met in RisingWave: a top-1 by row_number() crashed when a second row equal to the best arrived.
-- @ddl
CREATE TABLE offers (id int PRIMARY KEY, grp int, price int, label text);
INSERT INTO offers VALUES (1, 1, 5, 'x');
-- @query best_offer
SELECT grp, price, label FROM (SELECT grp, price, label, row_number() OVER (PARTITION BY grp ORDER BY price, label) AS rn FROM offers) s WHERE rn <= 1
-- @query ranked key=id
SELECT id, grp / 2 AS half, 6 - price AS inv, rk FROM (SELECT id, grp, price, rank() OVER (PARTITION BY grp / 2 ORDER BY 6 - price) AS rk FROM offers) s WHERE rk <= 2
-- @step
INSERT INTO offers VALUES (2, 1, 0, 'x');
-- @step
INSERT INTO offers VALUES (3, 1, 0, 'x');
-- @step
DELETE FROM offers WHERE id = 2;
-- @step
INSERT INTO offers VALUES (4, 2, 4, 'a'), (5, 3, 4, 'a'), (6, 3, 5, 'b'), (7, NULL, 1, 'n'), (8, NULL, 1, 'n'), (9, 2, NULL, NULL);
-- @step
UPDATE offers SET price = 6 WHERE id IN (4, 5);
-- @step
UPDATE offers SET grp = NULL WHERE id = 3;
UPDATE offers SET grp = 1 WHERE id = 7;
-- @step
DELETE FROM offers WHERE grp IS NULL;
