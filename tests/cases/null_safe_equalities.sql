-- Met in Materialize, ksqlDB: IS NOT DISTINCT FROM was joined by the index of =, which has no NULL; rows with a NULL on both sides were lost or stayed.
-- @types
CREATE TYPE pair AS (x int, y int);
-- @ddl
CREATE TABLE seat (id int PRIMARY KEY, place text, line int, code int NOT NULL, spot pair);
CREATE TABLE guest (id int PRIMARY KEY, place text, line int, seat int, spot pair);
INSERT INTO seat VALUES (1, 'a', 1, 10, (1, 1)), (2, 'a', NULL, 20, NULL), (3, NULL, 1, 30, (NULL, NULL)), (4, NULL, NULL, 40, (1, NULL)), (5, 'b', 2, 50, (2, 2));
INSERT INTO guest VALUES (1, 'a', 1, 1, (1, 1)), (2, 'a', 1, NULL, NULL), (3, NULL, NULL, 3, (NULL, NULL)), (4, 'c', 1, 9, (1, NULL)), (5, NULL, 1, 2, (2, 2));
-- @query inner_join
SELECT s.id, g.id AS guest FROM seat s JOIN guest g ON g.place IS NOT DISTINCT FROM s.place
-- @query left_join
SELECT s.id, g.id AS guest FROM seat s LEFT JOIN guest g ON s.place IS NOT DISTINCT FROM g.place AND g.line IS NOT DISTINCT FROM s.line
-- @query written_out
SELECT s.id, g.id AS guest FROM seat s LEFT JOIN guest g ON (g.line IS NULL AND s.line IS NULL) OR s.line = g.line
-- @query mixed
SELECT s.id, g.id AS guest FROM seat s JOIN guest g ON g.place = s.place AND g.line IS NOT DISTINCT FROM s.line
-- @query rows_of_both
SELECT s.id, g.id AS guest FROM seat s JOIN guest g ON (g.place, g.line) IS NOT DISTINCT FROM (s.place, s.line)
-- @query by_key
SELECT g.id, s.place FROM guest g LEFT JOIN seat s ON s.id IS NOT DISTINCT FROM g.seat
-- @query by_value_never_null
SELECT s.id, g.id AS guest FROM seat s LEFT JOIN guest g ON g.line IS NOT DISTINCT FROM s.code / 10 JOIN guest h ON h.line IS NOT DISTINCT FROM s.code - 9
-- @query full_join
SELECT s.id, g.id AS guest FROM seat s FULL JOIN guest g ON g.id = s.line WHERE s.place IS NOT DISTINCT FROM g.place
-- @query after_left
SELECT s.id, g.id AS guest FROM seat s LEFT JOIN guest g ON g.seat = s.id WHERE g.place IS NOT DISTINCT FROM s.place
-- @query beyond_left
SELECT g.id, s.id AS seat, h.id AS other FROM guest g LEFT JOIN seat s ON s.id = g.seat LEFT JOIN guest h ON h.line IS NOT DISTINCT FROM s.line
-- @query beyond
SELECT g.id, s.id AS seat, h.id AS other FROM guest g JOIN seat s ON s.place IS NOT DISTINCT FROM g.place JOIN guest h ON h.line IS NOT DISTINCT FROM s.line AND h.seat = s.id
-- @query path_over_nulls
SELECT g.id, s.id AS seat, h.id AS other FROM guest g LEFT JOIN seat s ON s.place IS NOT DISTINCT FROM g.place LEFT JOIN guest h ON h.seat = s.id
-- @query exists key=id
SELECT s.id, EXISTS (SELECT FROM guest g WHERE g.line IS NOT DISTINCT FROM s.line AND g.place IS NOT NULL) AS any, (SELECT count(*) FROM guest g WHERE g.place = s.place OR g.place IS NULL AND s.place IS NULL) AS n FROM seat s
-- @query of_groups
SELECT s.id, t.n FROM seat s LEFT JOIN (SELECT g.place, count(*) AS n FROM guest g GROUP BY g.place) t ON t.place IS NOT DISTINCT FROM s.place
-- @query of_expressions
SELECT s.id, g.id AS guest FROM seat s JOIN guest g ON upper(g.place) IS NOT DISTINCT FROM upper(s.place) AND s.line IS NOT DISTINCT FROM 1
-- @query grouped
SELECT s.place, count(g.id) AS n FROM seat s LEFT JOIN guest g ON g.place IS NOT DISTINCT FROM s.place GROUP BY s.place
-- @query composites
SELECT s.id, g.id AS guest FROM seat s LEFT JOIN guest g ON g.spot IS NOT DISTINCT FROM s.spot
-- @query composites_written_out
SELECT s.id, g.id AS guest FROM seat s LEFT JOIN guest g ON g.spot = s.spot OR (g.spot IS NULL AND s.spot IS NULL)
-- @step
UPDATE guest SET seat = 4 WHERE id = 2;
-- @step
UPDATE guest SET place = NULL WHERE id = 1;
-- @step
UPDATE guest SET place = 'a', line = 1 WHERE id = 3;
-- @step
BEGIN;
UPDATE seat SET line = 1, place = NULL WHERE id = 4;
UPDATE guest SET line = NULL WHERE id = 5;
COMMIT;
-- @step
UPDATE guest SET spot = CASE id WHEN 1 THEN NULL WHEN 2 THEN (NULL, NULL)::pair ELSE (1, 1)::pair END;
-- @step
DELETE FROM guest WHERE place IS NULL;
-- @step
INSERT INTO guest VALUES (6, NULL, NULL, NULL, NULL), (7, NULL, NULL, NULL, (NULL, NULL)), (8, 'a', NULL, 4, NULL);
-- @step
UPDATE seat SET place = NULL, line = NULL, spot = NULL WHERE id = 5;
-- @step
UPDATE seat SET spot = (NULL, NULL) WHERE id IN (1, 2);
DELETE FROM seat WHERE id = 2;
-- @step
UPDATE guest SET seat = 1, line = 2 WHERE id = 8;
DELETE FROM guest;
