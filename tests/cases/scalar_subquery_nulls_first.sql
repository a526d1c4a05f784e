-- Met in Materialize: an outer reference in the ON clause of a left join, inside a scalar subquery with NULLS FIRST and LIMIT 1, let rows through.
-- @ddl
CREATE TABLE t_outer (id int PRIMARY KEY, f int);
CREATE TABLE t_inner (id int PRIMARY KEY, f int);
CREATE TABLE t_mid (id int PRIMARY KEY, f int);
INSERT INTO t_outer VALUES (1, 1), (2, 2), (3, NULL);
INSERT INTO t_inner VALUES (1, 1), (2, 2);
INSERT INTO t_mid VALUES (1, 1), (2, 5);
-- @query picked key=id
SELECT o.id, o.f FROM t_outer o WHERE o.f = (SELECT i.f FROM t_mid m LEFT JOIN t_inner i ON m.f = o.f ORDER BY 1 NULLS FIRST LIMIT 1)
-- @query shown key=id
SELECT o.id, (SELECT i.f FROM t_mid m LEFT JOIN t_inner i ON m.f = o.f ORDER BY 1 NULLS FIRST LIMIT 1) AS first_null, (SELECT i.f FROM t_mid m LEFT JOIN t_inner i ON m.f = o.f ORDER BY 1 DESC NULLS LAST LIMIT 1) AS biggest FROM t_outer o
-- @step
DELETE FROM t_mid WHERE id = 2;
-- @step
INSERT INTO t_inner VALUES (3, NULL);
-- @step
DELETE FROM t_inner WHERE f IS NULL;
UPDATE t_inner SET f = 1;
-- @step
UPDATE t_mid SET f = 2;
-- @step
DELETE FROM t_mid;
-- @step
INSERT INTO t_mid VALUES (3, NULL), (4, 1);
UPDATE t_outer SET f = 1 WHERE id = 3;
