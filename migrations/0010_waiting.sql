-- Who waits for a position holds no lock on a table meanwhile, and the advisory lock that shows it goes with its statement.

-- What lockstep.contained returns, without keeping the locks that looking takes: a subtransaction that is rolled back gives its locks
-- back, while what a variable holds stays. So whoever waits stands in no upgrade's way, and no upgrade in theirs.
CREATE FUNCTION lockstep.glance(projection text) RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found pg_lsn;
BEGIN
    BEGIN
        found := lockstep.contained(projection);
        RAISE SQLSTATE 'LSOUT';
    EXCEPTION WHEN SQLSTATE 'LSOUT' THEN
        RETURN found;
    END;
END
$$;

-- Sleeps, while the projector sees that somebody waits: an idle group then writes its position at once. A session that is cancelled
-- meanwhile leaves nothing behind.
CREATE FUNCTION lockstep.doze(seconds double precision) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(lockstep.waiters_lock());
    PERFORM pg_sleep(seconds);
    RAISE SQLSTATE 'LSOUT';
EXCEPTION WHEN SQLSTATE 'LSOUT' THEN
    RETURN;
END
$$;

-- Returns true as soon as every group, or a projection, contains a source position, false if the time runs out. For a service that
-- has just written and now reads its own write:  SELECT lockstep.wait_for(pg_current_wal_insert_lsn(), '2 seconds', 'product_search');
--
-- One statement has one snapshot, which keeps VACUUM from removing what it might see; to wait for long, CALL lockstep.await.
CREATE OR REPLACE FUNCTION lockstep.wait_for(lsn pg_lsn, timeout interval DEFAULT '30 seconds', projection text DEFAULT NULL) RETURNS boolean
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
        IF coalesce(lockstep.glance(projection) >= lsn, false) THEN
            RETURN true;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM lockstep.doze(pause);
        pause := least(pause * 1.5, 0.02);
    END LOOP;
END
$$;

-- The same for waiting long: each look is a transaction of its own, so nothing is held between two, and the isolation level does not
-- matter. Outside of a transaction block:  CALL lockstep.await('0/1A2B3C4', '10 minutes');
CREATE PROCEDURE lockstep.await(lsn pg_lsn, timeout interval DEFAULT '30 seconds', projection text DEFAULT NULL, INOUT contained boolean DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + timeout;
    pause    double precision := 0.001;
BEGIN
    LOOP
        contained := coalesce(lockstep.contained(projection) >= lsn, false);
        EXIT WHEN contained OR clock_timestamp() >= deadline;
        COMMIT;
        PERFORM lockstep.doze(pause);
        COMMIT;
        pause := least(pause * 1.5, 0.02);
    END LOOP;
END
$$;

-- The position that a projection contains, as soon as it is beyond one that was seen, or when the time has run out. For who waits on
-- behalf of many.
CREATE OR REPLACE FUNCTION lockstep.contained_beyond(seen pg_lsn, timeout interval, projection text) RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + timeout;
    pause    double precision := 0.001;
    found    pg_lsn;
BEGIN
    LOOP
        found := lockstep.glance(projection);
        IF seen IS NULL AND found IS NOT NULL OR found > seen OR clock_timestamp() >= deadline THEN
            RETURN found;
        END IF;
        PERFORM lockstep.doze(pause);
        pause := least(pause * 1.5, 0.02);
    END LOOP;
END
$$;
