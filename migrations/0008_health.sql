-- What is recorded as live is live only while somebody keeps it so.

-- Why read models are not kept up to date, if they are not: what the projector has noted, or that it has not been heard of. One that was
-- stopped in good order leaves no lease.
CREATE FUNCTION lockstep.trouble(noted text, lease_until timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(noted, CASE WHEN lease_until < clock_timestamp()
        THEN 'the projector has not been heard of for ' || extract(epoch FROM clock_timestamp() - lease_until)::integer || ' s or more' END)
$$;

-- Where everything is, one row a projection. One that is set aside, or is being built, is not where its group is; one that is live while
-- nothing flows is stalled.
CREATE OR REPLACE VIEW lockstep.status AS
SELECT p.name AS projection, p.group_name, p.kind,
       CASE WHEN p.state = 'live' AND t.trouble IS NOT NULL THEN 'stalled' ELSE p.state END AS state,
       p.row_count AS rows, c.lsn, c.current_as_of,
       extract(epoch FROM clock_timestamp() - c.current_as_of)::double precision AS staleness_seconds,
       (SELECT count(*) FROM lockstep.quarantine AS q WHERE q.projection = p.name) AS quarantined,
       v.outcome AS last_verification, v.finished_at AS verified_at, p.sqlstate,
       coalesce(p.reason, CASE WHEN p.state = 'live' THEN t.trouble END) AS reason, p.hint
FROM lockstep.projection AS p
LEFT JOIN lockstep.checkpoint AS c ON c.group_name = p.group_name AND p.state = 'live'
LEFT JOIN LATERAL (
    SELECT r.outcome, r.finished_at FROM lockstep.verification AS r
    WHERE r.projection = p.name AND r.finished_at IS NOT NULL ORDER BY r.id DESC LIMIT 1
) AS v ON true
LEFT JOIN LATERAL (SELECT lockstep.trouble(i.trouble, i.lease_until) AS trouble FROM lockstep.installation AS i) AS t ON true
WHERE p.part_of IS NULL;
