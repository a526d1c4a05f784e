-- Verification: what was compared with its definition, and what differed.

ALTER TABLE lockstep.request ADD COLUMN arguments jsonb NOT NULL DEFAULT '{}';
ALTER TABLE lockstep.request ADD COLUMN done_at timestamptz;
ALTER TABLE lockstep.request ADD COLUMN error text;

CREATE TABLE lockstep.verification (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request          bigint,                -- what asked for it; NULL: the schedule
    projection       text        NOT NULL,
    sample           text,                  -- NULL: every row
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at      timestamptz,
    compared         bigint      NOT NULL DEFAULT 0,  -- rows of the definition, and of those of hidden tables
    differing        bigint      NOT NULL DEFAULT 0,  -- rows of the projection's table that differ
    hidden_differing bigint      NOT NULL DEFAULT 0,  -- rows of hidden tables that differ
    repaired         bigint,                -- rows that the repair changed; NULL: none was asked for
    outcome          text        NOT NULL DEFAULT 'running'
                     CHECK (outcome IN ('running', 'equal', 'different', 'repaired', 'not comparable', 'failed')),
    message          text
);

CREATE INDEX ON lockstep.verification (projection, started_at);

-- The first rows that differ. Values only if they were asked for.
CREATE TABLE lockstep.difference (
    verification bigint NOT NULL REFERENCES lockstep.verification (id) ON DELETE CASCADE,
    part         text   NOT NULL,  -- rows, or the name of a hidden table
    kind         text   NOT NULL CHECK (kind IN ('missing', 'unexpected', 'changed')),
    key          text[] NOT NULL,
    columns      text[] NOT NULL,  -- those that differ
    expected     text[],
    actual       text[]
);

CREATE INDEX ON lockstep.difference (verification);

-- Which source position a group's tables durably contain, as far as they are built. The slot is confirmed no further, so a slot that is
-- further is not the one that we follow: it was made anew, or moved.
ALTER TABLE lockstep.checkpoint ADD COLUMN recorded_lsn pg_lsn;

-- Grows when the source fails over or is restored to a point in time.
ALTER TABLE lockstep.installation ADD COLUMN timeline bigint;

-- The instance that writes renews it; when it has run out another one takes over.
ALTER TABLE lockstep.installation ADD COLUMN lease_until timestamptz;

-- Every refresh of a materialized view of the backstop.
CREATE TABLE lockstep.mv_refresh_log (
    id              bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view            text             NOT NULL,
    projection      text             NOT NULL,
    last_refresh_at timestamptz      NOT NULL,   -- when it began
    duration_ms     double precision NOT NULL,
    row_count       bigint,
    success         boolean          NOT NULL,
    error           text,
    suspects        bigint,                      -- rows that differed from the projection, which may have gone on meanwhile
    drift           bigint                       -- of those, rows that were wrong
);

CREATE INDEX ON lockstep.mv_refresh_log (view, last_refresh_at);

-- What the source tables were when the projection was last known to have followed them.
ALTER TABLE lockstep.projection ADD COLUMN relation_signature text;
