-- A build is loaded in pages by several sessions, each in transactions of its own.
ALTER TABLE lockstep.projection
    ADD COLUMN build_until  text[],                       -- rows after build_position and up to this one may be there
    ADD COLUMN indexes_done integer[] NOT NULL DEFAULT '{}'; -- which statements of the index script have run, counted from 0

-- Earlier versions have written rows of keys anywhere after build_position: what they had not finished is emptied and built anew.
UPDATE lockstep.projection
SET state = 'faulted', reason = 'an earlier version was building it: it is built anew', changed_at = clock_timestamp()
WHERE built_at IS NULL AND build_position IS NOT NULL;
