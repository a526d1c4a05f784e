-- The target's own metadata: what exists, where each group is, and the position that API services wait for.
-- Runs in schema lockstep, which also holds the hidden state of aggregate projections.

-- One row: which source this target follows, through which slot, and who may write.
CREATE TABLE lockstep.installation (
    single_row        boolean     PRIMARY KEY DEFAULT true CHECK (single_row),
    system_identifier text        NOT NULL,  -- of the source's cluster
    source_database   text        NOT NULL,
    slot              text        NOT NULL,
    slot_created_lsn  pg_lsn,                -- the slot's consistent point; NULL until it is created
    leader_epoch      bigint      NOT NULL DEFAULT 0,  -- grows with every start; fences a predecessor out
    started_at        timestamptz NOT NULL DEFAULT now()
);

-- Where each group is. Written in the same transaction as the data.
CREATE TABLE lockstep.checkpoint (
    group_name    text        PRIMARY KEY,
    leader_epoch  bigint      NOT NULL,
    snapshot      pg_snapshot,             -- the source snapshot that the group's tables equal
    lsn           pg_lsn,                  -- every commit before this source position is contained; NULL until the group is live
    current_as_of timestamptz,             -- source time of that snapshot
    committed_at  timestamptz,
    batches       bigint      NOT NULL DEFAULT 0,
    batch_ms      double precision,        -- the last batch, from snapshot to commit
    fence_ms      double precision,        -- of which waiting for the stream
    keys          bigint      NOT NULL DEFAULT 0,  -- dirty keys of the last batch
    transactions  bigint      NOT NULL DEFAULT 0   -- source transactions of the last batch
) WITH (fillfactor = 50);

-- One row a projection.
CREATE TABLE lockstep.projection (
    name           text        PRIMARY KEY,
    group_name     text        NOT NULL,
    kind           text        NOT NULL CHECK (kind IN ('row', 'aggregate', 'whole')),
    definition     text        NOT NULL,   -- the query, names qualified
    fingerprint    text        NOT NULL,   -- of everything that makes a rebuild necessary
    table_schema   text        NOT NULL,
    state_tables   text[]      NOT NULL DEFAULT '{}',
    relations      text[]      NOT NULL DEFAULT '{}',  -- the source tables that it reads, schema.name
    relation_oids  bigint[]    NOT NULL DEFAULT '{}',  -- their oids, so that a replaced table is noticed
    state          text        NOT NULL DEFAULT 'registered' CHECK (state IN ('registered', 'building', 'live', 'faulted')),
    row_count      bigint      NOT NULL DEFAULT 0,
    build_position text[],                 -- root key up to which the build has come
    indexes_built  boolean     NOT NULL DEFAULT false,
    built_at       timestamptz,
    sqlstate       text,                   -- of the fault
    reason         text,
    hint           text,
    changed_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- Returns true as soon as every group contains a source position, false if the time runs out. For a service that has just written
-- and now reads its own write:  SELECT lockstep.wait_for(pg_current_wal_insert_lsn(), '2 seconds');
--
-- The advisory lock is how the projector sees that somebody waits: an idle group then writes its position at once.
CREATE FUNCTION lockstep.wait_for(lsn pg_lsn, timeout interval DEFAULT '30 seconds') RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + timeout;
    pause    double precision := 0.001;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'lockstep.wait_for needs READ COMMITTED: this transaction''s snapshot cannot see later batches'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    LOOP
        IF lockstep.contains(lsn) THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_advisory_lock_shared(lockstep.waiters_lock());
        PERFORM pg_sleep(pause);
        PERFORM pg_advisory_unlock_shared(lockstep.waiters_lock());
        pause := least(pause * 1.5, 0.02);
    END LOOP;
END
$$;

-- Whether every group contains a source position.
CREATE FUNCTION lockstep.contains(wanted pg_lsn) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce(bool_and(coalesce(c.lsn >= wanted, false)), false) FROM lockstep.checkpoint c
$$;

-- The advisory lock that waiters hold: 'lockstep' as eight bytes.
CREATE FUNCTION lockstep.waiters_lock() RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT 7813573191660758384 $$;
