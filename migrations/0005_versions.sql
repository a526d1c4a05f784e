-- A projection whose definition changed is built anew beside the old version, which is maintained meanwhile, and then takes its place.

ALTER TABLE lockstep.projection ADD COLUMN source jsonb;                            -- as configured: sql, key, indexes, time_zone
ALTER TABLE lockstep.projection ADD COLUMN replaces text;                           -- the projection whose place it will take
ALTER TABLE lockstep.projection ADD COLUMN becomes text;                            -- its fingerprint then
ALTER TABLE lockstep.projection ADD COLUMN ready boolean NOT NULL DEFAULT false;    -- built and verified
ALTER TABLE lockstep.projection ADD COLUMN rebuild_wanted boolean NOT NULL DEFAULT false;

-- Old versions that are kept for a while.
CREATE TABLE lockstep.retired (
    table_schema text        NOT NULL,
    table_name   text        NOT NULL,
    drop_after   timestamptz NOT NULL,
    PRIMARY KEY (table_schema, table_name)
);
