//! A projection at run time: its plan, its statements, where it stands.

use std::time::Instant;

use lockstep_capture::RunningTransactions;
use lockstep_plan::{Maintenance, Plan, quote};
use tokio::sync::oneshot;

use super::phase::{BuildPosition, FAULT_RETRY, Load, Phase, Progress};
use crate::quarantine::{OnError, Part, Quarantine};
use crate::status::{ProjectionState, ProjectionStatus};
use crate::suspects::{Repair, Suspects};
use crate::tables::Registered;
use crate::transfer::Stage;

/// SQLSTATE, reason and hint of a fault.
pub(crate) type FaultRecord = (Option<String>, String, Option<String>);

/// Whether somebody may follow a projection's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    Off,
    On,
}

/// How differences are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// One statement: the usual way.
    InPlace,
    /// An index refused rows: those that clash are found and set aside, and where rows take each other's values, what goes goes first.
    DeleteFirst,
}

/// How the keys of a batch are refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempts {
    /// All at once: the usual way.
    AtOnce,
    /// So that those that fail are told apart: some row failed in the batch before.
    OneByOne,
}

/// What PostgreSQL knows of how much is in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// Nothing of this build, as far as it matters.
    Missing,
    /// They are to be gathered.
    Wanted,
    /// What was built.
    Gathered,
}

/// Whether changes are traced to root keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// As planned.
    Works,
    /// A trace failed on a row that the query filters out: dirty lookups and links refresh everything, and links are not kept.
    GivenUp,
    /// A link's table was found empty: an earlier run gave it up, or its relation is empty. Everything is refreshed once.
    LinksMissing,
}

/// A projection at run time.
pub struct Projection {
    pub(crate) plan: Plan,
    pub(crate) indexes: Option<String>,
    pub(crate) indexes_built: bool,
    pub(crate) schema: String,
    pub(crate) phase: Phase,
    pub(crate) rows: i64,
    /// Rows that the batch in work counts from: 0 where it emptied the table.
    pub(crate) rows_at_batch_start: i64,
    pub(crate) built_roots: u64,
    /// While it is built: rows after its position and up to here may be there.
    pub(crate) loaded_until: Option<BuildPosition>,
    /// The pages that the next batch loads.
    pub(crate) load: Option<Load>,
    pub(crate) reason: Option<String>,
    pub(crate) statistics: Statistics,
    /// How the next batch is written.
    pub(crate) writing: Writing,
    /// How the next batch is done.
    pub(crate) attempts: Attempts,
    pub(crate) on_error: OnError,
    pub(crate) quarantine: Quarantine,
    /// Rows that were found to differ.
    pub(crate) repair: Option<Repair>,
    /// Rows that the batch in work has written.
    pub(crate) written: i64,
    /// Rows that the batch in work repaired.
    pub(crate) repaired: Option<i64>,
    pub(crate) part_of: Option<String>,
    /// Nobody waits for it: a new version beside the one that readers use, or one that was added to others that are built.
    pub(crate) in_making: bool,
    /// Transactions that may have changed what it reads before that was followed: its build begins, or all of it is compared, when
    /// they have ended.
    pub(crate) awaits: Option<RunningTransactions>,
    /// Whether its changes are told.
    feed: Feed,
    pub(crate) tracing: Tracing,
    /// When it will be due after the batch in work.
    pub(crate) due_after_batch: Option<Instant>,
    /// When a projection that depends on the time is due again, as a whole.
    pub(crate) due_at: Option<Instant>,
    /// When to look next for rows that came or went with the time.
    pub(crate) tick_at: Option<Instant>,
    /// The time zone that its query is computed in.
    pub(crate) time_zone: String,
    /// What stands for its table's oid in the plans of projections that read it.
    pub(crate) node: u32,
    /// The projections of the group that it reads, by index.
    pub(crate) reads: Vec<usize>,
    /// With two databases: where fresh rows are brought, one for each branch.
    pub(crate) stages: Option<Vec<Stage>>,
    fault: Option<FaultRecord>,
    unrecorded_fault: Option<FaultRecord>,
    /// What the batch in work will have changed when it commits.
    pending: Option<(Phase, i64)>,
    saved: Progress,
}

/// How a projection is configured.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The schema of its table.
    pub schema: String,
    /// Statements that create its indexes.
    pub indexes: Option<String>,
    /// The time zone that its query is computed in.
    pub time_zone: String,
    /// What becomes of the row of a key that fails.
    pub on_error: OnError,
    /// What stands for its table's oid where other projections read it.
    pub node: u32,
}

impl Projection {
    /// A projection as it was registered.
    pub fn new(plan: Plan, configured: Configured, registered: &Registered) -> Self {
        let Configured { schema, indexes, time_zone, on_error, node } = configured;
        let on_schedule = matches!(&plan.maintenance, Maintenance::Whole(whole) if whole.on_schedule);
        Self {
            indexes,
            indexes_built: registered.indexes_built,
            schema,
            saved: Progress::of(registered),
            phase: Phase::of(registered),
            rows: registered.rows,
            rows_at_batch_start: registered.rows,
            built_roots: 0,
            loaded_until: loaded_until(registered),
            load: None,
            reason: None,
            statistics: Statistics::Missing,
            writing: Writing::InPlace,
            attempts: Attempts::AtOnce,
            on_error,
            quarantine: Quarantine::default(),
            repair: None,
            repaired: None,
            written: 0,
            part_of: registered.part_of.clone(),
            in_making: registered.in_making,
            awaits: None,
            feed: Feed::Off,
            tracing: Tracing::Works,
            due_after_batch: None,
            due_at: on_schedule.then(Instant::now),
            tick_at: plan.follows_clock().then(Instant::now),
            time_zone,
            node,
            reads: Vec::new(),
            stages: None,
            plan,
            fault: None,
            unrecorded_fault: None,
            pending: None,
        }
    }

    /// Takes over what the target has recorded: only it knows whether the last commit before a lost connection took effect, and
    /// after a crash it may have forgotten batches that were not durable yet.
    pub(crate) fn resume(&mut self, registered: &Registered) {
        self.rows = registered.rows;
        self.rows_at_batch_start = registered.rows;
        self.indexes_built = registered.indexes_built;
        self.loaded_until = loaded_until(registered);
        self.saved = Progress::of(registered);
        match &mut self.phase {
            // The fault is what we know; the target must know it too.
            Phase::Faulted { was_built, .. } => {
                *was_built = registered.was_built;
                if registered.state != ProjectionState::Faulted {
                    self.unrecorded_fault.clone_from(&self.fault);
                }
            }
            Phase::Building { .. } | Phase::Live | Phase::Degraded => self.phase = Phase::of(registered),
        }
    }

    /// Tells those who follow its changes what each batch writes.
    #[must_use]
    pub fn with_feed(mut self, feed: bool) -> Self {
        self.feed = if feed { Feed::On } else { Feed::Off };
        self
    }

    /// Lets a projection that is not live wait for transactions that may have changed what it reads unseen.
    #[must_use]
    pub fn awaiting(mut self, running: Option<RunningTransactions>) -> Self {
        // What a build has read it follows since: it waited before it began.
        let has_begun = matches!(self.phase, Phase::Live | Phase::Building { position: Some(_), .. });
        self.awaits = running.filter(|_| !has_begun);
        self
    }

    /// Whether it is served and maintained, and must be compared in full as soon as what it waits for has ended.
    pub(crate) fn awaits_comparison(&self) -> bool {
        self.awaits.is_some() && matches!(self.phase, Phase::Degraded)
    }

    /// Whether those that read it may read it in the batch in work.
    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.phase_after_batch(), Phase::Live) || self.awaits_comparison()
    }

    /// Whether what the batch in work writes is to be told: while it is built nobody follows it.
    pub(crate) fn feeds(&self) -> bool {
        self.feed == Feed::On && self.is_built() && !self.in_making
    }

    /// Its table and those of its hidden state, quoted.
    pub(crate) fn tables(&self) -> Vec<String> {
        let states = self.plan.state_tables();
        std::iter::once(quote::qualified(&self.schema, self.name()))
            .chain(states.iter().map(|state| quote::qualified("lockstep", &state.name)))
            .collect()
    }

    /// Its tables have been emptied: it is built from the start.
    pub(crate) fn begin_anew(&mut self) {
        self.phase = Phase::Building { position: None, exhausted: false };
        (self.rows, self.rows_at_batch_start, self.built_roots, self.loaded_until) = (0, 0, 0, None);
        self.saved = Progress { rows: 0, state: self.phase.state(), build_position: None };
        self.quarantine = Quarantine::default();
        self.statistics = Statistics::Missing;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.projection
    }

    /// Its plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether keys that fail are to be told apart from those that do not.
    pub(crate) fn isolates(&self) -> bool {
        self.attempts == Attempts::OneByOne || self.quarantine.has_failures()
    }

    /// Whether telling keys apart is still to be tried after a row failed.
    pub(crate) fn may_isolate(&self) -> bool {
        self.on_error != OnError::Halt && !self.plan.branches().is_empty() && !self.isolates()
    }

    /// The keys in quarantine are to be forgotten: everything is made anew.
    pub(crate) fn forget_quarantine(&mut self) {
        for branch in 0..self.plan.branches().len() {
            self.quarantine.all_refreshed(Part::Branch(branch));
        }
        self.quarantine.all_refreshed(Part::Groups);
    }

    /// Whether the projection takes part in batches now.
    pub(crate) fn takes_part(&self) -> bool {
        match &self.phase {
            Phase::Building { .. } => self.awaits.is_none(),
            Phase::Live | Phase::Degraded => true,
            Phase::Faulted { retry_at, .. } => self.awaits.is_none() && *retry_at <= Instant::now(),
        }
    }

    pub(crate) fn is_building(&self) -> bool {
        matches!(self.phase, Phase::Building { .. })
    }

    /// How far its build has come, while there is more of it.
    pub(crate) fn build_position(&self) -> Option<&BuildPosition> {
        match &self.phase {
            Phase::Building { position, exhausted: false } => position.as_ref(),
            Phase::Building { exhausted: true, .. } | Phase::Live | Phase::Degraded | Phase::Faulted { .. } => None,
        }
    }

    /// Where its next pages begin, if they may be loaded by sessions beside the batch's: what they read is committed, and nothing that they
    /// write is refused.
    pub(crate) fn loads_from(&self) -> Option<&BuildPosition> {
        let usual = self.writing == Writing::InPlace && self.quarantine.is_empty() && !self.isolates();
        let position = self.build_position().filter(|_| usual && self.takes_part() && self.reads.is_empty())?;
        (position.branch < self.plan.branches().len()).then_some(position)
    }

    /// Whether it has ever been built.
    pub(crate) fn is_built(&self) -> bool {
        match self.phase {
            Phase::Live | Phase::Degraded => true,
            Phase::Building { .. } => false,
            Phase::Faulted { was_built, .. } => was_built,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Whether there is something to do without any change.
    pub(crate) fn wants_batch(&self) -> bool {
        self.wants_more_than_a_tick() || self.tick_at.is_some_and(|tick| tick <= Instant::now())
    }

    /// The same, apart from looking for rows that came or went with the time.
    pub(crate) fn wants_more_than_a_tick(&self) -> bool {
        let retry = self.quarantine.next_retry().is_some_and(|retry| retry <= Instant::now()) || self.repair.is_some();
        let unfinished = !self.is_live() && !self.awaits_comparison();
        unfinished || self.is_due() || self.tracing == Tracing::LinksMissing || retry
    }

    /// Whether the build has read all roots and waits for its indexes and its last batch.
    pub(crate) fn is_exhausted(&self) -> bool {
        matches!(self.phase, Phase::Building { exhausted: true, .. })
    }

    /// Whether the clock makes it dirty.
    pub(crate) fn is_due(&self) -> bool {
        self.due_at.is_some_and(|due| due <= Instant::now())
    }

    /// When something is to be done without any change: a schedule, or another try after a fault.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Live => [self.due_at, self.tick_at, self.quarantine.next_retry()].into_iter().flatten().min(),
            Phase::Building { .. } | Phase::Degraded => None,
            Phase::Faulted { retry_at, .. } => Some(*retry_at),
        }
    }

    /// Whether changes of some relation recompute all of it.
    pub(crate) fn is_whole(&self) -> bool {
        !self.plan.is_incremental()
    }

    /// Notes what the batch in work does; nothing counts until [`Self::commit`].
    pub(crate) fn stage_progress(&mut self, phase: Phase, row_delta: i64) {
        self.pending = Some((phase, self.rows_at_batch_start + row_delta));
        self.rows_at_batch_start = self.rows;
    }

    /// The phase that the batch in work ends in.
    pub(crate) fn phase_after_batch(&self) -> &Phase {
        self.pending.as_ref().map_or(&self.phase, |(phase, _)| phase)
    }

    /// Whether the batch in work changes what is recorded.
    pub(crate) fn has_unsaved_progress(&self) -> bool {
        self.pending.is_some() && self.unsaved() != self.saved
    }

    /// Whether it was live and is, and has another number of rows.
    pub(crate) fn only_its_rows_are_unsaved(&self) -> bool {
        let live = |progress: &Progress| progress.state == ProjectionState::Live && progress.build_position.is_none();
        self.has_unsaved_progress() && live(&self.saved) && live(&self.unsaved())
    }

    /// What is to be recorded.
    pub(crate) fn unsaved(&self) -> Progress {
        let (phase, rows) = self.pending.as_ref().map_or((&self.phase, self.rows), |(phase, rows)| (phase, *rows));
        let build_position = match phase {
            Phase::Building { position, .. } => position.as_ref().map(BuildPosition::to_texts),
            Phase::Live | Phase::Degraded | Phase::Faulted { .. } => None,
        };
        Progress { rows, state: phase.state(), build_position }
    }

    /// The batch has committed.
    pub(crate) fn commit(&mut self) {
        self.unrecorded_fault = None;
        if self.pending.is_some() {
            self.saved = self.unsaved();
            self.loaded_until = None;
        }
        if let Some((phase, rows)) = self.pending.take() {
            // Groups' rows come with the last batch of a build: what was analysed before it was empty.
            let rows_come_last = !matches!(self.plan.maintenance, Maintenance::Row(_));
            if self.is_building() && matches!(phase, Phase::Live) && (rows_come_last || self.statistics == Statistics::Missing) {
                self.statistics = Statistics::Wanted;
            }
            self.phase = phase;
            self.rows = rows;
            self.rows_at_batch_start = rows;
            self.reason = None;
            self.writing = Writing::InPlace;
            self.attempts = Attempts::AtOnce;
            let (added, released) = self.quarantine.commit(std::mem::take(&mut self.written) > 0);
            if added > 0 {
                tracing::warn!(projection = self.name(), keys = added, "keys that fail were set aside: lockstep quarantine");
            }
            if released > 0 {
                tracing::info!(projection = self.name(), keys = released, "keys in quarantine are good again");
            }
            if self.tracing == Tracing::LinksMissing {
                self.tracing = Tracing::Works;
            }
        }
        self.due_at = self.due_after_batch.take().or(self.due_at);
        if let Some(rows) = self.repaired.take()
            && let Some(repair) = self.repair.take()
        {
            // Who has gone does not want to know.
            for reply in repair.replies {
                let _ = reply.send(rows);
            }
        }
    }

    /// The batch has not committed.
    pub(crate) fn roll_back(&mut self) {
        self.pending = None;
        self.quarantine.roll_back();
        self.repaired = None;
        self.written = 0;
        self.due_after_batch = None;
        self.rows_at_batch_start = self.rows;
    }

    /// Wants rows refreshed that were found to differ; a projection that is not live is refreshed in any case.
    pub(crate) fn suspect(&mut self, suspects: Suspects, reply: Option<oneshot::Sender<i64>>) {
        if !self.is_live() {
            return;
        }
        let repair = self.repair.get_or_insert_default();
        repair.suspects.absorb(suspects);
        repair.replies.extend(reply);
    }

    /// Sets the projection aside.
    pub(crate) fn fault(&mut self, record: FaultRecord) {
        let (pause, was_built) = match &self.phase {
            Phase::Faulted { pause, was_built, .. } => ((*pause * 2).min(*FAULT_RETRY.end()), *was_built),
            Phase::Live | Phase::Degraded => (*FAULT_RETRY.start(), true),
            Phase::Building { .. } => (*FAULT_RETRY.start(), false),
        };
        self.phase = Phase::Faulted { retry_at: Instant::now() + pause, pause, was_built };
        self.saved.state = ProjectionState::Faulted;
        self.reason = Some(record.1.clone());
        self.fault = Some(record.clone());
        self.unrecorded_fault = Some(record);
        self.writing = Writing::InPlace;
        self.attempts = Attempts::AtOnce;
        self.repair = None;
        self.pending = None;
    }

    /// A fault that the target does not know yet. No batch may commit without it: the batch drops the projection's changes, and
    /// only the record tells a later start that they are missing.
    pub(crate) fn unrecorded_fault(&self) -> Option<&FaultRecord> {
        self.unrecorded_fault.as_ref()
    }

    /// The target knows the fault.
    pub(crate) fn fault_recorded(&mut self) {
        self.unrecorded_fault = None;
    }

    pub(crate) fn status(&self) -> ProjectionStatus {
        ProjectionStatus {
            name: self.name().to_owned(),
            state: self.phase.state(),
            rows: self.rows,
            built_roots: self.built_roots,
            reason: self.reason.clone(),
            quarantined: self.quarantine.len(),
            in_making: self.in_making,
        }
    }
}

fn loaded_until(registered: &Registered) -> Option<BuildPosition> {
    registered.build_until.as_deref().and_then(BuildPosition::from_texts)
}
