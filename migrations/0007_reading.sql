-- Reading: keys by which clients page, waiting for one projection, the feed of changes, and a view of where everything is.

-- The columns that identify a row; empty where none do.
ALTER TABLE lockstep.projection ADD COLUMN key_columns text[] NOT NULL DEFAULT '{}';

-- Why the projector cannot go on, while it cannot.
ALTER TABLE lockstep.installation ADD COLUMN trouble text;

-- Waiting concerns every group, or one projection.
DROP FUNCTION lockstep.wait_for(pg_lsn, interval);
DROP FUNCTION lockstep.contains(pg_lsn);

-- The source position that every group, or a projection, contains. NULL for a projection that is being built or is set aside: it does
-- not contain what its group contains.
CREATE FUNCTION lockstep.contained(projection text DEFAULT NULL) RETURNS pg_lsn
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN bool_and(c.lsn IS NOT NULL) THEN min(c.lsn) END FROM lockstep.checkpoint AS c
    WHERE projection IS NULL
       OR c.group_name = (SELECT p.group_name FROM lockstep.projection AS p WHERE p.name = projection AND p.state = 'live')
$$;

CREATE FUNCTION lockstep.contains(wanted pg_lsn, projection text DEFAULT NULL) RETURNS boolean
LANGUAGE sql STABLE AS $$ SELECT coalesce(lockstep.contained(projection) >= wanted, false) $$;

-- Returns true as soon as every group, or a projection, contains a source position, false if the time runs out. For a service that
-- has just written and now reads its own write:  SELECT lockstep.wait_for(pg_current_wal_insert_lsn(), '2 seconds', 'product_search');
--
-- The advisory lock is how the projector sees that somebody waits: an idle group then writes its position at once.
CREATE FUNCTION lockstep.wait_for(lsn pg_lsn, timeout interval DEFAULT '30 seconds', projection text DEFAULT NULL) RETURNS boolean
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
        IF lockstep.contains(lsn, projection) THEN
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

-- The position that a projection contains, as soon as it is beyond one that was seen, or when the time has run out. For who waits on
-- behalf of many; the advisory lock is as above.
CREATE FUNCTION lockstep.contained_beyond(seen pg_lsn, timeout interval, projection text) RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + timeout;
    pause    double precision := 0.001;
    found    pg_lsn;
BEGIN
    LOOP
        found := lockstep.contained(projection);
        IF seen IS NULL AND found IS NOT NULL OR found > seen OR clock_timestamp() >= deadline THEN
            RETURN found;
        END IF;
        PERFORM pg_advisory_lock_shared(lockstep.waiters_lock());
        PERFORM pg_sleep(pause);
        PERFORM pg_advisory_unlock_shared(lockstep.waiters_lock());
        pause := least(pause * 1.5, 0.02);
    END LOOP;
END
$$;

-- What each batch changed, for caches. Written in the batch's transaction; kept for a configured time.
CREATE TABLE lockstep.change (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection text        NOT NULL,
    lsn        pg_lsn,               -- every commit before this source position is contained; NULL while something is being built
    rows       bigint      NOT NULL, -- rows added, changed or removed
    keys       json,                 -- their keys, each an object; NULL: too many to tell, or rows without a key
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX ON lockstep.change (projection, id);
CREATE INDEX ON lockstep.change (at);

-- Changes up to this one have been forgotten: who has seen less must drop everything. Not in lockstep.projection, whose rows batches
-- write in snapshots that must not be overtaken.
CREATE TABLE lockstep.forgotten (
    projection text   PRIMARY KEY,
    id         bigint NOT NULL
);

-- What a listener on channel lockstep_<projection> is told; PostgreSQL allows less than 8,000 bytes.
CREATE FUNCTION lockstep.change_notice(id bigint, lsn pg_lsn, rows bigint, keys json) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN octet_length(n.whole) < 7900 THEN n.whole ELSE n.short END
    FROM (SELECT json_build_object('id', id, 'lsn', lsn, 'rows', rows, 'keys', keys)::text AS whole,
                 json_build_object('id', id, 'lsn', lsn, 'rows', rows, 'keys', NULL)::text AS short) AS n
$$;

-- Where everything is, one row a projection. One that is set aside, or is being built, is not where its group is.
CREATE VIEW lockstep.status AS
SELECT p.name AS projection, p.group_name, p.kind, p.state, p.row_count AS rows, c.lsn, c.current_as_of,
       extract(epoch FROM clock_timestamp() - c.current_as_of)::double precision AS staleness_seconds,
       (SELECT count(*) FROM lockstep.quarantine AS q WHERE q.projection = p.name) AS quarantined,
       v.outcome AS last_verification, v.finished_at AS verified_at, p.sqlstate, p.reason, p.hint
FROM lockstep.projection AS p
LEFT JOIN lockstep.checkpoint AS c ON c.group_name = p.group_name AND p.state = 'live'
LEFT JOIN LATERAL (
    SELECT r.outcome, r.finished_at FROM lockstep.verification AS r
    WHERE r.projection = p.name AND r.finished_at IS NOT NULL ORDER BY r.id DESC LIMIT 1
) AS v ON true
WHERE p.part_of IS NULL;
