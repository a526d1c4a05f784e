-- Met in Doris, StarRocks: ROLLUP over an expression of a view returned the finest level only.
-- @ddl
CREATE TABLE hits (id int PRIMARY KEY, site int, city int, usr text, pv bigint NOT NULL DEFAULT 0);
CREATE VIEW hit_labels AS SELECT id, site, city, concat(usr, pv) AS label, pv FROM hits;
INSERT INTO hits VALUES (1, 1, 1, 'a', 1), (2, 1, 2, 'b', 2), (3, NULL, 1, 'a', 4), (4, NULL, NULL, NULL, 8);
-- @query rolled
SELECT site, city, label, grouping(site, city, label) AS lvl, count(*) AS n, sum(pv) AS s FROM hit_labels GROUP BY ROLLUP (site, city, label)
-- @query cubed
SELECT site, city, grouping(site) AS gs, grouping(city) AS gc, sum(pv) AS s, count(DISTINCT usr) AS u FROM hits GROUP BY CUBE (site, city) HAVING count(*) > 1
-- @query sets
SELECT site, usr, max(pv) AS hi, grouping(site, usr) AS lvl FROM hits GROUP BY GROUPING SETS ((site), (usr), (), ())
-- @step
INSERT INTO hits VALUES (5, 1, NULL, 'a', 16);
-- @step
UPDATE hits SET site = 1 WHERE id = 3;
-- @step
UPDATE hits SET city = NULL, usr = NULL;
-- @step
DELETE FROM hits WHERE site IS NULL;
-- @step
DELETE FROM hits;
-- @step
INSERT INTO hits (id, usr) VALUES (9, 'z');
