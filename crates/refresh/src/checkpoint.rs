//! The checkpoint: where a group is, committed with its data.

use lockstep_connect::Repertoire;
use lockstep_wal::Lsn;
use tokio_postgres::{Client, Statement};

use crate::projection::{FaultRecord, Projection};
use crate::statements::Statements;

/// What a batch records.
pub(crate) struct Checkpoint<'a> {
    pub(crate) group: &'a str,
    pub(crate) leader_epoch: i64,
    pub(crate) snapshot: &'a str,
    /// What `now()` meant.
    pub(crate) clock: &'a str,
    /// `None` while something is still being built.
    pub(crate) lsn: Option<Lsn>,
    /// Everything before it is contained, as far as it is built.
    pub(crate) recorded_lsn: Lsn,
    pub(crate) source_time_microseconds: i64,
    pub(crate) batch_ms: f64,
    pub(crate) fence_ms: f64,
    pub(crate) keys: i64,
    pub(crate) transactions: i64,
}

/// Takes a group over: from now on only `leader_epoch` can write its checkpoint.
///
/// # Errors
/// The statement failed.
pub async fn claim_group(target: &Client, group: &str, leader_epoch: i64) -> Result<(), tokio_postgres::Error> {
    target
        .execute(
            "INSERT INTO lockstep.checkpoint (group_name, leader_epoch) VALUES ($1, $2)
             ON CONFLICT (group_name) DO UPDATE SET leader_epoch = excluded.leader_epoch
             WHERE checkpoint.leader_epoch <> excluded.leader_epoch",
            &[&group, &leader_epoch],
        )
        .await?;
    Ok(())
}

/// Whether nobody has taken the group over. Inside a transaction nobody can until it ends.
pub(crate) async fn still_leads(target: &Client, group: &str, leader_epoch: i64) -> Result<bool, tokio_postgres::Error> {
    let mine = "SELECT FROM lockstep.checkpoint WHERE group_name = $1 AND leader_epoch = $2 FOR SHARE";
    Ok(target.query_opt(mine, &[&group, &leader_epoch]).await?.is_some())
}

/// Records a batch: its checkpoint, and how many rows the projections that were and are live have now. It fails (22012,
/// [`is_fenced`]) if another instance has taken the group over, so that a COMMIT may follow at once and commits nothing.
/// Returns the transaction's id, where nothing of the application's hangs on the tables that were written: no trigger, no rule.
const RECORD: &str = "
WITH led AS (
    UPDATE lockstep.checkpoint
    SET snapshot = $3::text::pg_snapshot, lsn = $4::text::pg_lsn,
        current_as_of = timestamptz '2000-01-01 00:00:00+00' + $5::bigint * interval '1 microsecond',
        committed_at = clock_timestamp(), batches = batches + 1, batch_ms = $6, fence_ms = $7, keys = $8, transactions = $9,
        clock = $10::text::timestamptz, recorded_lsn = $11::text::pg_lsn
    WHERE group_name = $1 AND leader_epoch = $2
    RETURNING 1
), counted AS (
    UPDATE lockstep.projection AS p
    SET row_count = c.rows, sqlstate = NULL, reason = NULL, hint = NULL
    FROM unnest($12::text[], $13::bigint[]) AS c (name, rows)
    WHERE p.name = c.name
)
SELECT 1 / count(*),
       CASE WHEN NOT EXISTS (SELECT FROM pg_class WHERE oid = ANY ($14::text[]::regclass[]) AND (relhastriggers OR relhasrules))
            THEN (pg_current_xact_id()::text::numeric % 4294967296)::bigint END
FROM led";

/// Whether recording a batch failed because another instance leads.
pub(crate) fn is_fenced(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::DIVISION_BY_ZERO)
}

/// The statement that records batches.
pub(crate) async fn recording(prepared: &mut Statements, target: &Client) -> Result<Statement, tokio_postgres::Error> {
    prepared.on_target(target, RECORD).await
}

/// Records a batch: see [`RECORD`].
pub(crate) async fn record(
    target: &Client,
    statement: &Statement,
    checkpoint: &Checkpoint<'_>,
    projections: &[Projection],
) -> Result<Option<u32>, tokio_postgres::Error> {
    let counted = || projections.iter().filter(|projection| projection.only_its_rows_are_unsaved());
    let (names, rows): (Vec<&str>, Vec<i64>) = counted().map(|projection| (projection.name(), projection.unsaved().rows)).unzip();
    let written: Vec<String> = projections
        .iter()
        .filter(|projection| projection.written > 0)
        .map(|projection| lockstep_plan::quote::qualified(&projection.schema, projection.name()))
        .collect();
    let row = target
        .query_one(
            statement,
            &[
                &checkpoint.group,
                &checkpoint.leader_epoch,
                &checkpoint.snapshot,
                &checkpoint.lsn.map(|lsn| lsn.to_string()),
                &checkpoint.source_time_microseconds,
                &checkpoint.batch_ms,
                &checkpoint.fence_ms,
                &checkpoint.keys,
                &checkpoint.transactions,
                &checkpoint.clock,
                &checkpoint.recorded_lsn.to_string(),
                &names,
                &rows,
                &written,
            ],
        )
        .await?;
    Ok(row.get::<_, Option<i64>>(1).and_then(|xid| u32::try_from(xid).ok()))
}

/// Moves the position of an idle group forward: nothing that concerns it has happened up to `lsn`.
/// `current` tells whether the stream has caught up, so that the group is current as of now; `contained` whether what it holds is
/// complete, or only as far as it is built.
pub(crate) async fn advance(
    target: &Client,
    group: &str,
    leader_epoch: i64,
    lsn: Lsn,
    current: bool,
    contained: bool,
) -> Result<bool, tokio_postgres::Error> {
    let updated = target
        .execute(
            "UPDATE lockstep.checkpoint
             SET lsn = CASE WHEN $5 THEN $3::text::pg_lsn ELSE lsn END, recorded_lsn = $3::text::pg_lsn, current_as_of = CASE WHEN $4 THEN clock_timestamp() ELSE current_as_of END,
                 committed_at = clock_timestamp()
             WHERE group_name = $1 AND leader_epoch = $2",
            &[&group, &leader_epoch, &lsn.to_string(), &current, &contained],
        )
        .await?;
    Ok(updated == 1)
}

/// The position of a group, as committed.
pub(crate) async fn position(target: &Client, group: &str) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let row = target.query_opt("SELECT lsn::text FROM lockstep.checkpoint WHERE group_name = $1", &[&group]).await?;
    Ok(row.and_then(|row| row.get::<_, Option<String>>(0)).and_then(|text| text.parse().ok()))
}

/// The position that the target records for a group, whether its projections are built or not.
pub(crate) async fn recorded(target: &Client, group: &str) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let row = target.query_opt("SELECT recorded_lsn::text FROM lockstep.checkpoint WHERE group_name = $1", &[&group]).await?;
    Ok(row.and_then(|row| row.get::<_, Option<String>>(0)).and_then(|text| text.parse().ok()))
}

/// What `now()` meant in a group's last batch, as text.
pub(crate) async fn clock(target: &Client, group: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let row = target.query_opt("SELECT clock::text FROM lockstep.checkpoint WHERE group_name = $1", &[&group]).await?;
    Ok(row.and_then(|row| row.get(0)))
}

/// Notes that rows up to `until` may be there before they are loaded. False if another instance has taken the group over.
pub(crate) async fn announce_load(
    target: &Client,
    (group, leader_epoch): (&str, i64),
    projection: &str,
    until: &[String],
) -> Result<bool, tokio_postgres::Error> {
    let announced = target
        .execute(
            "UPDATE lockstep.projection SET build_until = $2
             WHERE name = $1 AND EXISTS (SELECT FROM lockstep.checkpoint WHERE group_name = $3 AND leader_epoch = $4 FOR SHARE)",
            &[&projection, &until, &group, &leader_epoch],
        )
        .await?;
    Ok(announced == 1)
}

/// Says why a projection has not begun.
pub(crate) async fn write_reason(
    target: &Client,
    projection: &str,
    leader_epoch: i64,
    reason: Option<&str>,
) -> Result<(), tokio_postgres::Error> {
    let repertoire = Repertoire::of_session(target).await?;
    target
        .execute(
            "UPDATE lockstep.projection SET reason = $2
             WHERE name = $1 AND EXISTS (SELECT FROM lockstep.installation WHERE leader_epoch = $3)",
            &[&projection, &reason.map(|reason| repertoire.message(reason)), &leader_epoch],
        )
        .await?;
    Ok(())
}

/// Whether some session waits in `lockstep.wait_for`.
pub(crate) async fn somebody_waits(prepared: &mut Statements, target: &Client) -> Result<bool, tokio_postgres::Error> {
    let waits = "SELECT EXISTS (
                     SELECT FROM pg_locks
                     WHERE locktype = 'advisory' AND mode = 'ShareLock' AND objsubid = 1
                       AND (classid::bigint << 32 | objid::bigint) = lockstep.waiters_lock()
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    let statement = prepared.on_target(target, waits).await?;
    Ok(target.query_one(&statement, &[]).await?.get(0))
}

/// Records what a batch changed about projections: progress, states, faults, keys in quarantine. Of those that are live and stay so
/// [`record`] tells the rows.
pub(crate) async fn write_projections(
    target: &Client,
    leader_epoch: i64,
    projections: &[Projection],
) -> Result<(), tokio_postgres::Error> {
    for projection in projections {
        if let Some(fault) = projection.unrecorded_fault() {
            write_fault(target, projection.name(), leader_epoch, fault).await?;
        }
    }
    for projection in projections {
        let root = |branch: usize| {
            projection.plan.branches().get(branch).map(|branch| format!("{}.{}", branch.root.schema, branch.root.name))
        };
        projection.quarantine.write(target, projection.name(), root).await?;
    }
    let progressed = |projection: &&Projection| projection.has_unsaved_progress() && !projection.only_its_rows_are_unsaved();
    for projection in projections.iter().filter(progressed) {
        let progress = projection.unsaved();
        target
            .execute(
                "UPDATE lockstep.projection
                 SET row_count = $2, state = $3, build_position = $4, build_until = NULL,
                     built_at = CASE WHEN $3 = 'live' THEN coalesce(built_at, clock_timestamp()) ELSE built_at END,
                     sqlstate = NULL, reason = NULL, hint = NULL,
                     changed_at = CASE WHEN state = $3 THEN changed_at ELSE clock_timestamp() END
                 WHERE name = $1",
                &[&projection.name(), &progress.rows, &progress.state.name(), &progress.build_position],
            )
            .await?;
    }
    Ok(())
}

/// Records a fault.
pub(crate) async fn write_fault(
    target: &Client,
    projection: &str,
    leader_epoch: i64,
    (sqlstate, reason, hint): &FaultRecord,
) -> Result<(), tokio_postgres::Error> {
    let repertoire = Repertoire::of_session(target).await?;
    target
        .execute(
            "UPDATE lockstep.projection
             SET state = 'faulted', sqlstate = $2, reason = $3, hint = $4,
                 changed_at = CASE WHEN state = 'faulted' THEN changed_at ELSE clock_timestamp() END
             WHERE name = $1 AND EXISTS (SELECT FROM lockstep.installation WHERE leader_epoch = $5)",
            &[&projection, sqlstate, &repertoire.message(reason), hint, &leader_epoch],
        )
        .await?;
    Ok(())
}
