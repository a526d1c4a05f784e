-- Met in several: names without a schema were looked for along another search_path than the one that the query was written for, so a function or a table of the same name elsewhere took their place.
-- @ddl
CREATE SCHEMA app;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database()); END $$;
SET search_path = app, public;
CREATE TABLE app.item (id int PRIMARY KEY, n int, name text);
CREATE TABLE public.item (id int PRIMARY KEY, n int, name text);
CREATE FUNCTION app.label(n int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'app ' || n $$;
CREATE FUNCTION public.label(n int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'public ' || n $$;
CREATE FUNCTION public.shout(word text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT upper(word) || '!' $$;
CREATE FUNCTION app.upper(word text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'never: pg_catalog is first' $$;
INSERT INTO app.item SELECT n, n % 3, 'item ' || n FROM generate_series(1, 9) n;
INSERT INTO public.item SELECT n, n % 2, 'other ' || n FROM generate_series(1, 9) n;
-- @query labelled key=id
SELECT id, label(n) AS label, shout(name) AS shouted, upper(name) AS upper FROM item
-- @query by_label
SELECT label(n) AS label, count(*) AS items, max(shout(name)) AS last FROM item GROUP BY label(n)
-- @query both key=id
SELECT item.id, item.name, o.name AS other FROM item LEFT JOIN public.item AS o ON o.id = item.id
-- @step
INSERT INTO item VALUES (10, 1, 'new'), (11, NULL, NULL);
UPDATE item SET n = n + 1 WHERE id < 4;
-- @step
UPDATE public.item SET name = 'changed' WHERE id = 2;
DELETE FROM public.item WHERE id = 3;
-- @step
SET search_path = public;
UPDATE item SET n = 7;
INSERT INTO item VALUES (12, 5, 'elsewhere');
-- @step
DELETE FROM app.item WHERE id > 5;
UPDATE app.item SET id = 12 WHERE id = 1;
