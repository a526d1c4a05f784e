-- Projections that follow the clock, and projections that are made of others.

-- The time that now() meant in the group's last batch: what has come and gone since then is dirty in the next.
ALTER TABLE lockstep.checkpoint ADD COLUMN clock timestamptz;

-- An inner projection is hidden: it was made to maintain this one.
ALTER TABLE lockstep.projection ADD COLUMN part_of text;
