-- Projections that follow the clock.

-- The time that now() meant in the group's last batch: what has come and gone since then is dirty in the next.
ALTER TABLE lockstep.checkpoint ADD COLUMN clock timestamptz;
