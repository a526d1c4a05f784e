-- A block that a new version has in common with the old one is not built again: what it will be called when that has taken its place.
ALTER TABLE lockstep.projection ADD COLUMN stays_as text;
