-- Met here: rows of a partition that only changed their places were in their own way under the index of a declared key, and set aside.
-- @ddl
CREATE TABLE things (id varchar(4) PRIMARY KEY, g int NOT NULL, a numeric(10,2) NOT NULL);
INSERT INTO things VALUES ('a', 1, 1.5), ('b', 2, 2.25), ('c', 2, 7);
-- @query placed key=id
SELECT id, g, row_number() OVER (PARTITION BY g ORDER BY a, id) AS place FROM things
-- @query shares key=id
SELECT id, g, count(*) OVER (PARTITION BY g) AS n FROM things
-- @step
INSERT INTO things VALUES ('d', 3, 7);
-- @step
UPDATE things SET g = 3 WHERE id = 'b';
-- @step
INSERT INTO things VALUES ('z', 3, 0.5);
-- @step
UPDATE things SET a = 10 - a, g = 3;
-- @step
DELETE FROM things WHERE id = 'd';
