//! One batch of a group: snapshot, fence, take, refresh, checkpoint, commit.

mod build;
mod guard;
mod hashes;
mod isolate;
mod load;
mod planning;
mod refresh;
mod refreshed;
mod repair;
mod trace;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_capture::{Accounted, Batch, Capture, DirtyKeys, Passed, Snapshot};
use lockstep_connect::Session;
use lockstep_plan::emit::Places;
use lockstep_wal::Lsn;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use crate::checkpoint::{self, Checkpoint};
use crate::error::{BatchError, Side};
use crate::feed::Fed;
use crate::group::{FencePolicy, RefreshOptions};
use crate::loaders::Loaders;
use crate::notices::Notice;
use crate::observer::{BatchObserver, BatchView, LiveProjection};
use crate::planning::Planning;
use crate::projection::{Projection, Statements as ProjectionStatements};
use crate::sessions::Sessions;
use crate::statements::Statements;

/// What a batch needs; borrowed from the group for its duration.
pub(crate) struct BatchRun<'a> {
    pub(crate) group: &'a str,
    pub(crate) index: usize,
    pub(crate) leader_epoch: i64,
    pub(crate) capture: &'a Capture,
    pub(crate) sessions: &'a Sessions,
    /// Sessions for pages of a build.
    pub(crate) loaders: &'a Loaders,
    pub(crate) places: &'a Places,
    pub(crate) nudge: &'a Arc<Session>,
    pub(crate) prepared: &'a mut Statements,
    pub(crate) projections: &'a mut [Projection],
    pub(crate) sql: &'a [ProjectionStatements],
    pub(crate) options: &'a RefreshOptions,
    pub(crate) observer: Option<&'a dyn BatchObserver>,
    /// What `now()` meant in the last batch.
    pub(crate) clock: Option<&'a str>,
    /// The time zone that the sessions are in.
    pub(crate) zone: String,
    /// How the sessions plan.
    pub(crate) planning: Planning,
    /// The last snapshot for which everything had been delivered.
    pub(crate) accounted: &'a mut Option<Accounted>,
    /// The target has been told to commit.
    pub(crate) committing: bool,
    /// What the batch has written so far to the tables of projections that others read, by node.
    pub(crate) written: HashMap<u32, DirtyKeys>,
    /// The identities of the dirty rows of tables without a key, by relation.
    pub(crate) hashed: HashMap<u32, DirtyKeys>,
    /// What the batch tells those who follow the changes, by projection.
    pub(crate) fed: HashMap<usize, Fed>,
    /// Root keys that a build reads in this batch, for each projection that is building.
    pub(crate) page_rows: usize,
    /// Keys of the projection in work that are there for a page of its build.
    pub(crate) page_keys: usize,
    /// The projection in work has rows that no batch has counted.
    pub(crate) recounts: bool,
    /// How long it has taken so far to bring pages of builds.
    pub(crate) page_time: Duration,
    /// Commit even if there is nothing to do: somebody waits for a batch's boundary.
    pub(crate) forced: bool,
}

/// A committed batch.
pub(crate) struct Committed {
    pub(crate) contained_lsn: Option<Lsn>,
    /// Where the WAL ended at the snapshot.
    pub(crate) snapshot_lsn: Lsn,
    pub(crate) transactions: u64,
    pub(crate) keys: usize,
    /// How long whole recomputations took.
    pub(crate) whole_time: Duration,
    /// How long it took to bring pages of builds.
    pub(crate) page_time: Duration,
    pub(crate) began: Instant,
    /// How long the fence took.
    pub(crate) fence_time: Duration,
    /// What `now()` meant.
    pub(crate) clock: String,
    /// What listeners are to be told.
    pub(crate) notices: Vec<Notice>,
}

/// How a batch ended without an error.
pub(crate) enum BatchEnd {
    Committed(Committed),
    /// Nothing that the snapshot saw was to be done.
    NothingVisible,
    /// The time went on to this, and no row came or went with it.
    NothingFlipped(String),
}

/// A snapshot of the source, and the position that the fence must reach for it.
struct SourceSnapshot {
    text: String,
    snapshot: Snapshot,
    fence_lsn: Lsn,
    clock: String,
    source_microseconds: i64,
    taken_at: Instant,
}

impl BatchRun<'_> {
    /// Runs the batch. On an error the taken work has been given back and both transactions are rolled back.
    pub(crate) async fn run(mut self) -> Result<BatchEnd, BatchError> {
        let began = Instant::now();
        let snapshot = match self.open_snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.sessions.rollback().await;
                return Err(error);
            }
        };
        let delivered_lsn = match self.pass_fence(&snapshot).await {
            Ok(delivered_lsn) => delivered_lsn,
            Err(error) => {
                self.sessions.rollback().await;
                return Err(error);
            }
        };
        let fence_time = snapshot.taken_at.elapsed();
        self.capture.note_source_position(snapshot.fence_lsn, snapshot.taken_at);
        let (batch, contained_lsn) = self.capture.with_group(self.index, |dirty| {
            let batch = dirty.take(&snapshot.snapshot);
            // A delivered commit that this snapshot does not see is not contained, and nothing after it may be claimed.
            let contained = dirty.oldest_waiting_lsn().map_or(delivered_lsn, |waiting| waiting.min(delivered_lsn));
            (batch, contained)
        });
        let nothing_else =
            !self.forced && !self.projections.iter().any(|projection| projection.takes_part() && projection.wants_batch());
        if batch.is_empty() && nothing_else {
            self.capture.with_group(self.index, |dirty| dirty.give_back(batch));
            self.sessions.rollback().await;
            return Ok(BatchEnd::NothingVisible);
        }
        if batch.is_empty()
            && !self.forced
            && !self.projections.iter().any(|projection| projection.takes_part() && projection.wants_more_than_a_tick())
        {
            let nothing_flipped = self.nothing_flipped().await;
            if !matches!(nothing_flipped, Ok(false)) {
                self.capture.with_group(self.index, |dirty| dirty.give_back(batch));
                self.sessions.rollback().await;
                return nothing_flipped.map(|_| BatchEnd::NothingFlipped(snapshot.clock));
            }
        }
        match self.refresh_and_commit(&batch, &snapshot, contained_lsn, began, fence_time).await {
            Ok(committed) => Ok(BatchEnd::Committed(committed)),
            Err(error) => {
                if self.committing {
                    self.sessions.rollback_source().await;
                } else {
                    self.sessions.rollback().await;
                }
                self.projections.iter_mut().for_each(Projection::roll_back);
                self.capture.with_group(self.index, |dirty| dirty.give_back(batch));
                Err(error)
            }
        }
    }

    async fn open_snapshot(&mut self) -> Result<SourceSnapshot, BatchError> {
        let sql_error = |side| move |error| BatchError::Sql { side, error, projection: None };
        let source = self.sessions.source();
        // One that writes does not ask for it: where the default is not to write, that is meant.
        let mode = if self.sessions.is_one() { "" } else { ", READ ONLY" };
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ{mode}");
        // The functions run after the snapshot of the statement has been taken, so every commit that it sees is before L.
        let statement = self
            .prepared
            .on_source(
                source,
                "SELECT pg_current_snapshot()::text,
                        (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text,
                        (extract(epoch FROM clock_timestamp() - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint,
                        now()::text",
            )
            .await
            .map_err(sql_error(Side::Source))?;
        let (begun, row) = tokio::join!(biased; source.batch_execute(&begin), source.query_one(&statement, &[]));
        begun.map_err(sql_error(Side::Source))?;
        let row = row.map_err(sql_error(Side::Source))?;
        if !self.sessions.is_one() {
            self.sessions.target().batch_execute("BEGIN").await.map_err(sql_error(Side::Target))?;
        }
        let text: String = row.get(0);
        let unreadable = |what: &str| {
            BatchError::Capture(lockstep_capture::CaptureError::Ended(format!("the source returned an unreadable {what}")))
        };
        Ok(SourceSnapshot {
            snapshot: text.parse().map_err(|_| unreadable("snapshot"))?,
            fence_lsn: row.get::<_, &str>(1).parse().map_err(|_| unreadable("position"))?,
            source_microseconds: row.get(2),
            clock: row.get(3),
            taken_at: Instant::now(),
            text,
        })
    }

    /// Waits until everything that the snapshot sees is in the dirty set. Returns the position before which everything is.
    async fn pass_fence(&mut self, snapshot: &SourceSnapshot) -> Result<Lsn, BatchError> {
        match self.options.fence {
            FencePolicy::Wait => {}
            FencePolicy::SkipForNegativeControl => return Ok(snapshot.fence_lsn),
        }
        let Passed { lsn, accounted } = self.fence(snapshot).await?;
        *self.accounted = Some(accounted);
        Ok(lsn)
    }

    async fn fence(&self, snapshot: &SourceSnapshot) -> Result<Passed, BatchError> {
        let began = Instant::now();
        let nudge = || {
            let (session, capture) = (self.nudge.clone(), self.capture.clone());
            async move {
                match session.simple_query(NUDGE).await {
                    Ok(messages) => own_xid(&messages).into_iter().for_each(|own| capture.note_own(own)),
                    Err(error) => tracing::debug!(error = %lockstep_connect::describe(&error), "nudge"),
                }
            }
        };
        let passed = self.capture.fence(snapshot.fence_lsn, &snapshot.snapshot, self.accounted.as_ref(), nudge).await?;
        self.measure_phase("fence", began);
        Ok(passed)
    }

    async fn refresh_and_commit(
        &mut self,
        batch: &Batch,
        snapshot: &SourceSnapshot,
        contained_lsn: Lsn,
        began: Instant,
        fence_time: Duration,
    ) -> Result<Committed, BatchError> {
        fail::fail_point!("batch_before_refresh", |_| std::process::abort());
        let mut whole_time = Duration::ZERO;
        for index in 0..self.projections.len() {
            if self.takes_part(index) {
                self.enter_zone(index).await?;
                let started = Instant::now();
                self.refresh_projection(index, batch).await?;
                if self.projections[index].is_whole() {
                    whole_time += started.elapsed();
                }
            }
        }
        fail::fail_point!("batch_before_checkpoint", |_| std::process::abort());
        let live = self.projections.iter().all(|projection| {
            projection.in_making
                || projection.awaits_comparison()
                || matches!(
                    projection.phase_after_batch(),
                    crate::projection::Phase::Live | crate::projection::Phase::Faulted { .. }
                )
        });
        let recorded_lsn = contained_lsn;
        let contained_lsn = live.then_some(contained_lsn);
        let checkpoint = Checkpoint {
            group: self.group,
            leader_epoch: self.leader_epoch,
            snapshot: &snapshot.text,
            clock: &snapshot.clock,
            lsn: contained_lsn,
            recorded_lsn,
            source_time_microseconds: snapshot.source_microseconds,
            batch_ms: began.elapsed().as_secs_f64() * 1000.0,
            fence_ms: fence_time.as_secs_f64() * 1000.0,
            keys: i64::try_from(batch.keys()).unwrap_or(i64::MAX),
            transactions: i64::try_from(batch.transactions).unwrap_or(i64::MAX),
        };
        let notices = self.commit(&checkpoint, batch, snapshot).await?;
        let clock = snapshot.clock.clone();
        Ok(Committed {
            contained_lsn,
            snapshot_lsn: snapshot.fence_lsn,
            transactions: batch.transactions,
            keys: batch.keys(),
            whole_time,
            page_time: self.page_time,
            began,
            fence_time,
            clock,
            notices,
        })
    }

    async fn commit(
        &mut self,
        checkpoint: &Checkpoint<'_>,
        batch: &Batch,
        snapshot: &SourceSnapshot,
    ) -> Result<Vec<Notice>, BatchError> {
        let sql_error = |side| move |error| BatchError::Sql { side, error, projection: None };
        let target = self.sessions.target();
        let committing = Instant::now();
        let record = checkpoint::recording(self.prepared, target).await.map_err(sql_error(Side::Target))?;
        let position = self.prepared.on_target(target, POSITION).await.map_err(sql_error(Side::Target))?;
        let mut notices = Vec::new();
        for (index, fed) in &self.fed {
            let projection = &self.projections[*index];
            let recorded = fed.write(target, projection.name(), projection.plan.key.columns(), checkpoint.lsn).await;
            notices.extend(recorded.map_err(sql_error(Side::Target))?);
        }
        checkpoint::write_projections(target, self.leader_epoch, self.projections).await.map_err(sql_error(Side::Target))?;
        let viewed = self.observer.is_some_and(|observer| observer.wants(self.group));
        let live = if viewed { self.live_projections(&snapshot.clock) } else { Vec::new() };
        let mut recorded = None;
        if viewed {
            recorded = Some(checkpoint::record(target, &record, checkpoint, self.projections).await.map_err(not_recorded)?);
        }
        if let Some(observer) = self.observer {
            observer.before_commit(self.view(&live, viewed, &[])).await.map_err(BatchError::Refused)?;
        }
        self.committing = true;
        let recording = async {
            match recorded {
                Some(own) => Ok(own),
                None => checkpoint::record(target, &record, checkpoint, self.projections).await.map_err(not_recorded),
            }
        };
        // A batch that is not recorded is not committed by the COMMIT that follows at once.
        let (own, committed) = tokio::join!(biased; recording, commit_and_position(target, &position));
        let own = own?;
        let durable_at = committed.map_err(|error| self.deferred(error))?;
        if let Some(own) = own.filter(|_| self.sessions.is_one()) {
            self.capture.note_own(own);
        }
        let freshness = self.freshness(batch, snapshot);
        fail::fail_point!("batch_after_commit", |_| std::process::abort());
        if !self.sessions.is_one() {
            // The batch is committed whatever becomes of the source's read-only transaction; a lost session shows next time.
            if let Err(error) = self.sessions.source().batch_execute("COMMIT").await {
                tracing::debug!(error = %lockstep_connect::describe(&error), "closing the source snapshot");
            }
        }
        self.projections.iter_mut().for_each(Projection::commit);
        self.capture.with_group(self.index, |dirty| {
            dirty.done_until_durable(durable_at.inserted);
            dirty.record_until_durable(checkpoint.recorded_lsn, durable_at.inserted);
            dirty.flushed(durable_at.flushed);
        });
        self.measure_phase("commit", committing);
        if let Some(observer) = self.observer {
            observer.after_commit(self.view(&live, viewed, &freshness)).await;
        }
        Ok(notices)
    }

    /// An error at the commit: of a constraint that is checked then, if it names the table of a projection.
    fn deferred(&self, error: tokio_postgres::Error) -> BatchError {
        let named = |db: &tokio_postgres::error::DbError| {
            let of = |projection: &Projection| {
                db.table() == Some(projection.name()) && db.schema() == Some(projection.schema.as_str())
            };
            self.projections.iter().position(of)
        };
        let projection = error.as_db_error().and_then(named);
        BatchError::Sql { side: Side::Target, error, projection }
    }

    /// Whether a projection takes part: those that it reads must be live by now.
    fn takes_part(&self, index: usize) -> bool {
        let readable = |read: &usize| self.projections[*read].is_readable();
        self.projections[index].takes_part() && self.projections[index].reads.iter().all(readable)
    }

    /// Lets the sessions compute in a projection's time zone, until the transaction ends.
    async fn enter_zone(&mut self, index: usize) -> Result<(), BatchError> {
        let zone = self.projections[index].time_zone.clone();
        if zone == self.zone {
            return Ok(());
        }
        let statement = format!("SET LOCAL TimeZone = {}", lockstep_plan::quote::literal(&zone));
        let sql_error = |side| move |error| BatchError::Sql { side, error, projection: Some(index) };
        self.sessions.source().batch_execute(&statement).await.map_err(sql_error(Side::Source))?;
        if !self.sessions.is_one() {
            self.sessions.target().batch_execute(&statement).await.map_err(sql_error(Side::Target))?;
        }
        self.zone = zone;
        Ok(())
    }

    /// Whether the time that has passed since the last batch changes nothing. False if there is no last batch.
    async fn nothing_flipped(&mut self) -> Result<bool, BatchError> {
        for index in 0..self.projections.len() {
            if !self.projections[index].plan.follows_clock() || !self.projections[index].takes_part() {
                continue;
            }
            self.enter_zone(index).await?;
            if self.any_flipped(index).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn live_projections(&self, time: &str) -> Vec<LiveProjection> {
        let live = |projection: &&Projection| matches!(projection.phase_after_batch(), crate::projection::Phase::Live);
        let with_claims = self.observer.is_some_and(|observer| observer.wants_claims(self.group));
        self.projections.iter().filter(live).map(|projection| projection.live_view(time, with_claims)).collect()
    }

    fn view<'b>(&'b self, live: &'b [LiveProjection], viewed: bool, freshness_seconds: &'b [f64]) -> BatchView<'b> {
        BatchView {
            group: self.group,
            source: self.sessions.source(),
            target: self.sessions.target(),
            one_database: self.sessions.is_one(),
            live,
            viewed,
            freshness_seconds,
        }
    }

    pub(crate) fn measure_phase(&self, phase: &'static str, since: Instant) {
        metrics::histogram!("lockstep_refresh_duration_seconds", "group" => self.group.to_owned(), "phase" => phase)
            .record(since.elapsed().as_secs_f64());
    }

    /// Commit to visible, by the source's clock: the time of the snapshot there plus what has passed here since.
    fn freshness(&self, batch: &Batch, snapshot: &SourceSnapshot) -> Vec<f64> {
        let histogram = metrics::histogram!("lockstep_freshness_seconds", "group" => self.group.to_owned());
        let since_snapshot = i64::try_from(snapshot.taken_at.elapsed().as_micros()).unwrap_or(i64::MAX);
        let visible_at = snapshot.source_microseconds.saturating_add(since_snapshot);
        let seconds = |commit_time: i64| f64::from(u32::try_from((visible_at - commit_time).max(0)).unwrap_or(u32::MAX)) / 1e6;
        let freshness: Vec<f64> = batch.commits.iter().map(|commit| seconds(commit.commit_time)).collect();
        for &value in &freshness {
            histogram.record(value);
        }
        freshness
    }
}

struct CommittedAt {
    inserted: Lsn,
    flushed: Lsn,
}

/// Why a batch is not recorded.
fn not_recorded(error: tokio_postgres::Error) -> BatchError {
    if checkpoint::is_fenced(&error) {
        return BatchError::Fenced;
    }
    BatchError::Sql { side: Side::Target, error, projection: None }
}

/// A transactional message is a commit of a few bytes; it makes the server flush its WAL up to here. It changes nothing.
const NUDGE: &str =
    "SELECT pg_logical_emit_message(true, 'lockstep', ''), (pg_current_xact_id()::text::numeric % 4294967296)::bigint";

fn own_xid(messages: &[SimpleQueryMessage]) -> Option<u32> {
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(1),
        _ => None,
    });
    row?.parse().ok()
}

/// Where the WAL ends, and up to where it is durable.
const POSITION: &str = "SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text";

/// Commits and asks, in the same round trip, which position must be flushed for the commit to be durable.
async fn commit_and_position(target: &Client, position: &Statement) -> Result<CommittedAt, tokio_postgres::Error> {
    let (committed, row) = tokio::join!(biased; target.batch_execute("COMMIT"), target.query_one(position, &[]));
    committed?;
    let row = row?;
    let lsn = |index: usize| row.get::<_, &str>(index).parse().unwrap_or_default();
    Ok(CommittedAt { inserted: lsn(0), flushed: lsn(1) })
}
