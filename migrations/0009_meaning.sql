-- What the query's meaning depended on besides rows (types, functions, views, configurations) when the projection was set up last.
ALTER TABLE lockstep.projection ADD COLUMN meaning jsonb;

COMMENT ON FUNCTION lockstep.wait_for(pg_lsn, interval, text) IS
    'Waits until every group, or a projection, contains the rows of every commit before a source position. Rows only: what changes results '
    'without a row (a partition attached, a function replaced) is compared when the projector has noticed it; lockstep wait waits for that, too.';
