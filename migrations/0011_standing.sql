-- Which installation this is, and where its target was when it last wrote: a copy of the database takes both along and is found by the
-- place where it is.
ALTER TABLE lockstep.installation ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid();
ALTER TABLE lockstep.installation ADD COLUMN target_system text;      -- the cluster's identifier
ALTER TABLE lockstep.installation ADD COLUMN target_database bigint;  -- the database's oid
ALTER TABLE lockstep.installation ADD COLUMN target_timeline bigint;  -- a standby that was promoted is on another, and the same installation

-- Hidden differences have no key.
ALTER TABLE lockstep.difference REPLICA IDENTITY FULL;
