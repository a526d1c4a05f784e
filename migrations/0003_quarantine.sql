-- Keys whose rows cannot be computed or written. They are set aside alone; the rest of their projection goes on.

CREATE TABLE lockstep.quarantine (
    projection text        NOT NULL REFERENCES lockstep.projection (name) ON DELETE CASCADE ON UPDATE CASCADE,
    part       integer     NOT NULL,  -- the branch of the plan that the key is a root key of; -1: the key of a group
    relation   text,                  -- the source table whose key it is; NULL for a group
    key        text[]      NOT NULL,  -- one element a key column
    sqlstate   text,
    message    text        NOT NULL,  -- PostgreSQL's own
    first_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts   integer     NOT NULL DEFAULT 1,
    retry_at   timestamptz NOT NULL,  -- tried again then, and whenever its row changes
    PRIMARY KEY (projection, part, key)
);

-- What commands ask of the projector that runs. It looks four times a second.
CREATE TABLE lockstep.request (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL,
    projection   text,                 -- NULL: all
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at     timestamptz
);
