//! The life of a group: connect, batch after batch, and what to do when one fails.

mod aside;
mod awaiting;
mod indexes;
mod loading;
mod prepare;
mod settings;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_capture::{Accounted, Capture};
use lockstep_connect::Session;
use lockstep_wal::Lsn;
use tokio::sync::{mpsc, watch};

use crate::batch::{BatchEnd, BatchRun, Committed};
use crate::checkpoint;
use crate::error::{BatchError, Remedy, Side, Untried};
use crate::loaders::Loaders;
use crate::notices::Notices;
use crate::planning::Planning;
use crate::projection::{Attempts, Projection, Statements as ProjectionStatements, Statistics, Tracing, Writing};
use crate::quarantine::Quarantine;
use crate::sessions::Sessions;
use crate::statements::Statements;
use crate::status::{Failing, GroupStatus};

/// First and longest pause after a batch that failed for a transient reason.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);

/// First and longest pause before another look when commits have arrived that no snapshot sees yet.
const INVISIBLE_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(100);

/// Plans are made once, mostly for tables that are small. After a batch that took so long they are made anew, but not more often than that.
const SLOW_BATCH: Duration = Duration::from_millis(20);
const PLAN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Root keys in a build's first page.
const FIRST_PAGE_ROWS: usize = 1_000;

pub use settings::{FencePolicy, GroupCommand, GroupSettings, RefreshOptions};

/// How a group's run ended.
#[derive(Debug)]
pub enum GroupEnd {
    /// It was asked to stop.
    Stopped,
    /// It cannot go on.
    Failed(BatchError),
}

/// A running group.
pub struct Group {
    settings: GroupSettings,
    capture: Capture,
    commands: mpsc::UnboundedReceiver<GroupCommand>,
    stop: watch::Receiver<bool>,
    status: watch::Sender<GroupStatus>,
    sql: Vec<ProjectionStatements>,
    page_rows: usize,
    contained_lsn: Option<Lsn>,
    /// What `now()` meant in the last batch.
    clock: Option<String>,
    advanced_at: Instant,
    /// Statements are to be planned anew, and when they were last.
    plans_are_slow: bool,
    planned_at: Instant,
    /// The last snapshot for which everything had been delivered.
    accounted: Option<Accounted>,
    /// Where the WAL ended at the last batch's snapshot: what is contained may be less, because the stream had not come so far.
    snapshot_lsn: Lsn,
    /// Whole recomputation is paced: not before this time.
    not_before: Instant,
    invisible_pause: Duration,
    batches: u64,
    /// Somebody waits for a batch.
    boundary_wanted: bool,
    /// What listeners are still to be told.
    notices: Notices,
    /// When to look next whether transactions that projections wait for have ended, and when to name them.
    awaited: awaiting::Looks,
    /// Since when batches fail, and why.
    failing: Option<Failing>,
}

pub(crate) struct Connected {
    sessions: Sessions,
    nudge: Arc<Session>,
    prepared: Statements,
    loaders: Loaders,
}

impl Group {
    /// A group that has not started, and its status.
    pub fn new(
        mut settings: GroupSettings,
        capture: Capture,
        commands: mpsc::UnboundedReceiver<GroupCommand>,
        stop: watch::Receiver<bool>,
    ) -> (Self, watch::Receiver<GroupStatus>) {
        link_projections(&mut settings.projections);
        // What is added to a running installation must not hold the positions of the others back.
        let added_to_others = settings.projections.iter().any(Projection::is_built);
        for projection in &mut settings.projections {
            projection.in_making |= added_to_others && !projection.is_built();
        }
        let status = watch::Sender::new(GroupStatus {
            name: settings.name.clone(),
            contained_lsn: None,
            current_as_of: None,
            batches: 0,
            projections: settings.projections.iter().map(Projection::status).collect(),
            failing: None,
        });
        let receiver = status.subscribe();
        let group = Self {
            settings,
            capture,
            commands,
            stop,
            status,
            sql: Vec::new(),
            page_rows: FIRST_PAGE_ROWS,
            contained_lsn: None,
            clock: None,
            advanced_at: Instant::now(),
            plans_are_slow: false,
            planned_at: Instant::now(),
            accounted: None,
            snapshot_lsn: Lsn::ZERO,
            not_before: Instant::now(),
            invisible_pause: *INVISIBLE_PAUSE.start(),
            batches: 0,
            boundary_wanted: false,
            notices: Notices::default(),
            awaited: awaiting::Looks::default(),
            failing: None,
        };
        (group, receiver)
    }

    /// Runs until asked to stop, or until it cannot go on.
    pub async fn run(mut self) -> GroupEnd {
        let mut pause = *RETRY.start();
        let mut connected: Option<Connected> = None;
        loop {
            if *self.stop.borrow() {
                return GroupEnd::Stopped;
            }
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
            let step = match &mut connected {
                Some(connection) => self.step(connection).await,
                None => match self.connect().await {
                    Ok(connection) => {
                        connected = Some(connection);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            let Err(error) = step else {
                pause = *RETRY.start();
                if self.failing.take().is_some() {
                    self.publish_status();
                }
                continue;
            };
            metrics::counter!("lockstep_errors_total", "class" => error.class_label()).increment(1);
            match &mut connected {
                // A statement whose result type has changed would fail for ever.
                Some(connection) => connection.prepared = Statements::default(),
                None => self.pause(*RETRY.start()).await,
            }
            let untried = |index: usize| {
                let projection = &self.settings.projections[index];
                Untried { delete_first: projection.writing == Writing::InPlace, one_by_one: projection.may_isolate() }
            };
            match error.remedy(untried) {
                Remedy::Retry => {
                    // One line for each change of state: what has been said goes on.
                    let is_new = self.note_failure(&error);
                    // The next session says by what.
                    if is_new && !error.is_refused_as_read_only() {
                        tracing::warn!(group = self.settings.name, error = %error, retry_in = ?pause, "batch failed; trying again");
                    } else {
                        tracing::debug!(group = self.settings.name, error = %error, retry_in = ?pause, "trying again");
                    }
                    if connected.as_ref().is_none_or(|connection| connection.sessions.closed() || connection.nudge.is_closed())
                        || error.is_about_resources()
                        || error.is_refused_as_read_only()
                    {
                        // Batches that the target had committed and not yet made durable may be gone with it.
                        if connected.take().is_some() {
                            self.capture.restart();
                        }
                    }
                    // Jitter, so that groups and instances do not knock in step.
                    self.pause(rand::random_range(pause / 2..=pause)).await;
                    pause = (pause * 2).min(*RETRY.end());
                }
                Remedy::Again => tracing::debug!(group = self.settings.name, error = %error, "trying again"),
                Remedy::DeleteFirst(index) => {
                    tracing::debug!(
                        projection = self.settings.projections[index].name(),
                        "rows clash; writing by deleting first"
                    );
                    self.settings.projections[index].writing = Writing::DeleteFirst;
                }
                Remedy::OneByOne(index) => {
                    let name = self.settings.projections[index].name();
                    tracing::warn!(projection = name, error = %error, "some row fails; looking for it");
                    // What makes one fail makes others fail, mostly; each would take another batch to be found.
                    for projection in self.settings.projections.iter_mut().filter(|projection| projection.may_isolate()) {
                        projection.attempts = Attempts::OneByOne;
                    }
                }
                // It is done already, and did not help.
                Remedy::SkipTraces(index) if self.settings.projections[index].tracing == Tracing::GivenUp => {
                    self.fault(index, &error, connected.as_ref()).await;
                }
                Remedy::SkipTraces(index) => {
                    tracing::warn!(projection = self.settings.projections[index].name(), error = %error, "refreshing everything instead");
                    self.settings.projections[index].tracing = Tracing::GivenUp;
                }
                Remedy::Fault(index) => self.fault(index, &error, connected.as_ref()).await,
                Remedy::Stop => {
                    tracing::error!(group = self.settings.name, error = %error, "group stopped");
                    return GroupEnd::Failed(error);
                }
            }
        }
    }

    fn obey(&mut self, command: GroupCommand) {
        let named = |projection: &Projection, name: &Option<String>| name.as_ref().is_none_or(|name| name == projection.name());
        match command {
            GroupCommand::Boundary => {
                self.boundary_wanted = true;
                for projection in &mut self.settings.projections {
                    projection.due_at = projection.due_at.map(|_| Instant::now());
                }
            }
            GroupCommand::Repair { projection: name, suspects, reply } => {
                if let Some(projection) = self.settings.projections.iter_mut().find(|projection| projection.name() == name) {
                    projection.suspect(suspects, reply);
                }
            }
            GroupCommand::RetryQuarantine { projection: name } => {
                for projection in self.settings.projections.iter_mut().filter(|projection| named(projection, &name)) {
                    projection.quarantine.retry_now();
                }
            }
        }
    }

    /// Whether it fails for another reason than before.
    fn note_failure(&mut self, error: &BatchError) -> bool {
        let reason = error.to_string();
        let is_new = self.failing.as_ref().is_none_or(|failing| failing.reason != reason);
        let since = self.failing.as_ref().map_or_else(Instant::now, |failing| failing.since);
        self.failing = Some(Failing { since, reason });
        self.publish_status();
        is_new
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An error means that the supervisor is gone; the next look at the flag ends the loop all the same.
            changed = self.stop.changed() => drop(changed),
        }
    }

    async fn connect(&mut self) -> Result<Connected, BatchError> {
        let name = format!("lockstep {}", self.settings.name);
        let sessions = Sessions::open(&self.settings.endpoints, &name).await?;
        let nudge = Session::open(&self.settings.endpoints.source, "lockstep nudge")
            .await
            .map_err(|error| BatchError::Connect { side: Side::Source, error })?;
        let sql_error = |side| move |error| BatchError::Sql { side, error, projection: None };
        // The nudge is there to flush, not to wait for a standby.
        nudge.batch_execute("SET synchronous_commit = local").await.map_err(sql_error(Side::Source))?;
        if !sessions.is_one() {
            self.make_stages(&sessions, true).await?;
        }
        if self.sql.is_empty() {
            self.sql = self.settings.projections.iter().map(|projection| projection.statements(&self.settings.places)).collect();
        }
        // Whether the last commit before a lost connection took effect, only the target knows.
        let registered = crate::tables::load_registered(sessions.target()).await.map_err(sql_error(Side::Target))?;
        for projection in &mut self.settings.projections {
            if let Some(found) = registered.iter().find(|found| found.name == projection.name()) {
                projection.resume(found);
                projection.quarantine =
                    Quarantine::load(sessions.target(), projection.name()).await.map_err(sql_error(Side::Target))?;
            }
        }
        let fed: Vec<&str> = self.settings.projections.iter().filter(|one| one.feeds()).map(Projection::name).collect();
        self.notices.owe_last(sessions.target(), &fed).await.map_err(sql_error(Side::Target))?;
        self.find_missing_links(&sessions).await?;
        self.clock = checkpoint::clock(sessions.target(), &self.settings.name).await.map_err(sql_error(Side::Target))?;
        self.contained_lsn =
            checkpoint::position(sessions.target(), &self.settings.name).await.map_err(sql_error(Side::Target))?;
        let recorded = checkpoint::recorded(sessions.target(), &self.settings.name).await.map_err(sql_error(Side::Target))?;
        self.capture.with_group(self.settings.index, |dirty| dirty.recorded(recorded.unwrap_or_default()));
        self.accounted = None;
        self.publish_status();
        Ok(Connected { sessions, nudge: Arc::new(nudge), prepared: Statements::default(), loaders: Loaders::default() })
    }

    /// Waits for something to do and does it.
    async fn step(&mut self, connected: &mut Connected) -> Result<(), BatchError> {
        self.look_at_what_is_awaited(connected).await?;
        if let Some(index) = self.settings.projections.iter().position(|p| p.is_exhausted() && !p.indexes_built) {
            return self.build_indexes(index, connected).await;
        }
        if let Some(index) = self.settings.projections.iter().position(|projection| projection.statistics == Statistics::Wanted) {
            return self.analyse(index, connected).await;
        }
        if !self.has_work() {
            return self.idle(connected).await;
        }
        if !connected.sessions.is_one()
            && self.settings.projections.iter().any(|p| p.stages.is_none() && p.takes_part() && !p.plan.reads_projections_only())
        {
            self.make_stages(&connected.sessions, false).await?;
        }
        if !self.settings.linger.is_zero() && !self.building() {
            self.pause(self.settings.linger).await;
        }
        let wait = self.not_before.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            self.pause(wait).await;
            if *self.stop.borrow() {
                return Ok(());
            }
        }
        self.plan_loads(connected).await?;
        if std::mem::take(&mut self.plans_are_slow) {
            connected.sessions.forget_plans().await?;
        }
        let run = BatchRun {
            group: &self.settings.name,
            index: self.settings.index,
            leader_epoch: self.settings.leader_epoch,
            capture: &self.capture,
            sessions: &connected.sessions,
            loaders: &connected.loaders,
            places: &self.settings.places,
            nudge: &connected.nudge,
            prepared: &mut connected.prepared,
            projections: &mut self.settings.projections,
            sql: &self.sql,
            options: &self.settings.options,
            observer: self.settings.observer.as_deref(),
            clock: self.clock.as_deref(),
            zone: "UTC".to_owned(),
            planning: Planning::Once,
            accounted: &mut self.accounted,
            committing: false,
            written: HashMap::new(),
            hashed: HashMap::new(),
            fed: HashMap::new(),
            page_rows: self.page_rows,
            page_keys: 0,
            recounts: false,
            page_time: Duration::ZERO,
            forced: self.boundary_wanted,
        };
        match run.run().await? {
            BatchEnd::Committed(committed) => {
                self.invisible_pause = *INVISIBLE_PAUSE.start();
                self.boundary_wanted = false;
                self.committed(&committed);
                committed.notices.into_iter().for_each(|notice| self.notices.owe(notice));
                self.notices.send(connected.sessions.target()).await;
            }
            BatchEnd::NothingFlipped(clock) => {
                self.clock = Some(clock);
                self.tick();
            }
            BatchEnd::NothingVisible => {
                self.pause(self.invisible_pause).await;
                self.invisible_pause = (self.invisible_pause * 2).min(*INVISIBLE_PAUSE.end());
            }
        }
        Ok(())
    }

    fn building(&self) -> bool {
        self.settings.projections.iter().any(Projection::is_building)
    }

    fn has_work(&self) -> bool {
        let dirty = self.capture.with_group(self.settings.index, |dirty| !dirty.is_empty());
        dirty
            || self.boundary_wanted
            || self.settings.projections.iter().any(|projection| projection.takes_part() && projection.wants_batch())
    }

    /// Puts off the next look for what came or went with the time.
    fn tick(&mut self) {
        let next = Instant::now() + self.settings.options.time_resolution;
        for projection in &mut self.settings.projections {
            projection.tick_at = projection.tick_at.map(|_| next);
        }
    }

    fn committed(&mut self, committed: &Committed) {
        let elapsed = committed.began.elapsed();
        self.clock = Some(committed.clock.clone());
        self.tick();
        self.batches += 1;
        self.contained_lsn = committed.contained_lsn;
        self.snapshot_lsn = committed.snapshot_lsn;
        self.advanced_at = Instant::now();
        if !committed.whole_time.is_zero() {
            let rest = committed.whole_time.mul_f64(1.0 / self.settings.options.whole_share - 1.0);
            self.not_before = Instant::now() + rest;
        }
        if self.building() {
            self.adapt_page(committed.page_time);
        } else if elapsed > SLOW_BATCH && self.planned_at.elapsed() > PLAN_AGAIN_AFTER {
            (self.plans_are_slow, self.planned_at) = (true, Instant::now());
        }
        metrics::counter!("lockstep_batches_total", "group" => self.settings.name.clone()).increment(1);
        tracing::debug!(
            group = self.settings.name,
            transactions = committed.transactions,
            keys = committed.keys,
            elapsed = ?elapsed,
            fence = ?committed.fence_time,
            "batch committed"
        );
        self.publish_status();
    }

    /// Pages grow while they are quick; beside live projections a page must not hold them up for long. What the changes take that come
    /// meanwhile is no reason to go on in smaller steps.
    fn adapt_page(&mut self, elapsed: Duration) {
        let live = self.settings.projections.iter().any(Projection::is_live);
        let goal = if live { Duration::from_millis(50) } else { Duration::from_millis(500) };
        let next = if elapsed < goal { self.page_rows * 2 } else { self.page_rows / 2 };
        self.page_rows = next.clamp(FIRST_PAGE_ROWS / 4, self.settings.options.page_rows_max);
    }

    fn publish_status(&self) {
        let dirty_since = self.capture.with_group(self.settings.index, |dirty| dirty.oldest_waiting_since());
        let current_as_of = match dirty_since {
            // Nothing waits: current as of the last word from the walsender.
            None => self.capture.current_as_of(),
            Some(since) => Some(since),
        };
        self.status.send_replace(GroupStatus {
            name: self.settings.name.clone(),
            contained_lsn: self.contained_lsn,
            current_as_of,
            batches: self.batches,
            projections: self.settings.projections.iter().map(Projection::status).collect(),
            failing: self.failing.clone(),
        });
    }
}

/// Tells each projection which others of the group it reads. They come before it.
fn link_projections(projections: &mut [Projection]) {
    let nodes: Vec<u32> = projections.iter().map(|projection| projection.node).collect();
    for projection in projections {
        projection.reads = nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| projection.plan.relations.iter().any(|relation| relation.oid == **node))
            .map(|(index, _)| index)
            .collect();
    }
}
