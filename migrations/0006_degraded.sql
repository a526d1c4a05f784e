-- A projection that may have missed changes is degraded until all of it has been compared: its query is in order, so it is not faulted.
ALTER TABLE lockstep.projection DROP CONSTRAINT projection_state_check;
ALTER TABLE lockstep.projection ADD CONSTRAINT projection_state_check
    CHECK (state IN ('registered', 'building', 'live', 'degraded', 'faulted'));
