-- A build is loaded in pages by several sessions, each in transactions of its own.
ALTER TABLE lockstep.projection
    ADD COLUMN build_until  text[],                       -- rows after build_position and up to this one may be there
    ADD COLUMN indexes_done integer[] NOT NULL DEFAULT '{}'; -- which statements of the index script have run, counted from 0
