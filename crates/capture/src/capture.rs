//! The handle that groups hold: their dirty sets, the fence, and what feedback reports.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lockstep_wal::Lsn;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::accounts::Accounted;
use crate::dirty::DirtySet;
use crate::error::CaptureError;
use crate::shared::{CaptureStatus, Followed, Member, Received, Shared, StreamEnd};
use crate::snapshot::Snapshot;
use crate::stream::{self, StreamSettings};
use crate::tracked::{Interest, Tracked};

/// How long the fence waits before it asks the walsender for its position; mostly the answer comes unasked.
const ASK_AFTER: Duration = Duration::from_millis(1);

/// How long the fence waits for WAL to be flushed by others before it asks for a nudge.
const NUDGE_AFTER: Duration = Duration::from_millis(1);

/// A nudge that takes longer than this is not waited for.
const NUDGE_MAX: Duration = Duration::from_millis(500);

/// A fence that takes longer than this is given up; the batch is tried again.
const FENCE_MAX: Duration = Duration::from_mins(1);

/// Bounds on what capture keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Dirty keys kept for each relation and group; more collapse to "whole relation".
    pub keys_max: usize,
}

/// A fence was passed.
#[derive(Debug, Clone)]
pub struct Passed {
    /// Everything that committed before this position has been delivered.
    pub lsn: Lsn,
    /// What the next fence of the same group may build on.
    pub accounted: Accounted,
}

/// A handle on capture. Cheap to clone; the stream ends with the last one.
#[derive(Clone)]
pub struct Capture {
    shared: Arc<Shared>,
    task: Arc<AbortOnDrop>,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells the groups that the stream is gone, however its task ended: a panic must not look like silence.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.status.send_if_modified(|status| {
            let silent = !matches!(status, CaptureStatus::Ended(_));
            if silent {
                let reason = "the stream's task ended unexpectedly".to_owned();
                *status = CaptureStatus::Ended(StreamEnd { reason, ..StreamEnd::default() });
            }
            silent
        });
    }
}

impl Capture {
    /// Starts streaming for some groups, each given by the relations it reads.
    pub fn start(settings: StreamSettings, groups: Vec<Vec<Interest>>, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            groups: Mutex::new(groups.into_iter().map(|interests| Member::new(interests, limits.keys_max)).collect()),
            followed: watch::Sender::new(by_oid(&settings.tracked)),
            keys_max: limits.keys_max,
            received: watch::Sender::new(Received::default()),
            last_commit: Mutex::default(),
            accounts: Mutex::default(),
            restart_wanted: Notify::new(),
            source_position: Mutex::default(),
            confirmed: watch::Sender::new(Lsn::ZERO),
            position_wanted: Notify::new(),
            aside: watch::Sender::new(false),
            status: watch::Sender::new(CaptureStatus::Starting),
        });
        let guard = EndGuard(shared.clone());
        let task = tokio::spawn(async move {
            let guard = guard;
            stream::run(settings, guard.0.clone()).await;
        });
        Self { shared, task: Arc::new(AbortOnDrop(task)) }
    }

    /// Ends the stream, whoever else still has a handle; returns when its connection is closed.
    pub async fn stop(&self) {
        self.task.0.abort();
        let mut status = self.shared.status.subscribe();
        // The sender lives as long as this handle does.
        let _ = status.wait_for(|status| matches!(status, CaptureStatus::Ended(_))).await;
    }

    /// Works on a group's dirty set. Keep it short: the stream waits for the same lock.
    pub fn with_group<T>(&self, group: usize, work: impl FnOnce(&mut DirtySet) -> T) -> T {
        work(&mut self.shared.groups()[group].dirty)
    }

    /// Returns when something new has arrived for a group.
    pub async fn arrival(&self, group: usize) {
        let arrived = self.shared.groups()[group].arrived.clone();
        arrived.notified().await;
    }

    /// Wakes a group as if something had arrived.
    pub fn wake(&self, group: usize) {
        self.shared.groups()[group].arrived.notify_one();
    }

    /// Follows these relations from the next transaction on, and no others. What began before may be delivered in part: whoever
    /// needs it waits until every transaction that runs now has ended ([`crate::RunningTransactions`]).
    pub fn follow(&self, tracked: &[Tracked]) {
        self.shared.followed.send_replace(by_oid(tracked));
    }

    /// Adds a group while the stream runs; returns its index.
    pub fn add_group(&self, interests: Vec<Interest>) -> usize {
        let member = Member::new(interests, self.shared.keys_max);
        let mut groups = self.shared.groups();
        match groups.iter().position(|member| member.gone) {
            Some(free) => {
                groups[free] = member;
                free
            }
            None => {
                groups.push(member);
                groups.len() - 1
            }
        }
    }

    /// The group, which has ended in good order and is to be started again, reads these relations now. What waits for it stays.
    pub fn change_group(&self, group: usize, interests: Vec<Interest>) {
        self.shared.groups()[group].dirty.set_interests(interests);
    }

    /// What waits for one group waits for another as well, which has taken over of its work.
    pub fn inherit(&self, from: usize, into: usize) {
        let mut groups = self.shared.groups();
        if let Ok([from, into]) = groups.get_disjoint_mut([from, into]) {
            into.dirty.inherit(&from.dirty);
            into.arrived.notify_one();
        }
    }

    /// The group has ended for good: nothing is collected for it, and it holds the slot no more.
    pub fn remove_group(&self, group: usize) {
        let member = &mut self.shared.groups()[group];
        *member = Member { gone: true, ..Member::new(Vec::new(), self.shared.keys_max) };
    }

    /// Everything that committed before this position has been received.
    pub fn received(&self) -> Lsn {
        self.shared.received.borrow().lsn
    }

    /// Tells that the source's WAL ended at `lsn` at this time. Once the stream has reached it, whoever has nothing dirty is
    /// current as of then.
    pub fn note_source_position(&self, lsn: Lsn, at: Instant) {
        let mut known = self.shared.source_position.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((earlier, since)) = known.latest
            && earlier <= self.received()
        {
            known.reached = Some(since);
        }
        // An unreached position stays, lest a stream that lags behind never reaches the newest one.
        if known.latest.is_none_or(|(earlier, _)| earlier <= self.received()) {
            known.latest = Some((lsn, at));
        }
    }

    /// When the stream was last known to be where the source was.
    pub fn current_as_of(&self) -> Option<Instant> {
        let known = self.shared.source_position.lock().unwrap_or_else(PoisonError::into_inner);
        match known.latest {
            Some((lsn, at)) if lsn <= self.received() => Some(at),
            Some(_) | None => known.reached,
        }
    }

    /// Gives the stream up and starts it again from the confirmed position: a target that crashed may have lost batches that were
    /// committed there asynchronously, and their transactions must come again.
    pub fn restart(&self) {
        self.shared.begin_stream();
        self.shared.restart_wanted.notify_one();
    }

    /// The position that was last confirmed to the slot.
    pub fn confirmed(&self) -> Lsn {
        *self.shared.confirmed.borrow()
    }

    /// Tells what the source's `synchronous_standby_names` is now; while it chooses our stream, that stands aside.
    pub fn note_standby_names(&self, setting: &str) {
        self.shared.note_standby_names(setting);
    }

    /// Whether the stream stands aside, because the source would choose it for a synchronous standby.
    pub fn stands_aside(&self) -> bool {
        self.shared.aside()
    }

    /// Follows the status.
    pub fn status(&self) -> watch::Receiver<CaptureStatus> {
        self.shared.status.subscribe()
    }

    /// Tells that a transaction of the source's cluster changes our own tables and nothing else.
    pub fn note_own(&self, xid: u32) {
        self.shared.accounts().know(xid);
    }

    /// Returns when everything up to `lsn` has been received. Nothing is hurried for it.
    pub async fn reached(&self, lsn: Lsn) {
        let mut received = self.shared.received.subscribe();
        // The sender lives as long as this handle does.
        let _ = received.wait_for(|received| received.lsn >= lsn).await;
    }

    /// Waits until everything that `snapshot` sees has been received: everything up to `lsn`, where its WAL ended, or, if the group has
    /// passed a fence `before`, each transaction that has become visible since. `nudge` is called when nothing moves: it must make the
    /// server flush its WAL (a tiny commit), because the walsender sends only what is flushed.
    ///
    /// # Errors
    /// Capture has ended, or the position was not reached within a minute.
    pub async fn fence<F: Future<Output = ()> + Send + 'static>(
        &self,
        lsn: Lsn,
        snapshot: &Snapshot,
        before: Option<&Accounted>,
        nudge: impl Fn() -> F,
    ) -> Result<Passed, CaptureError> {
        let mut received = self.shared.received.subscribe();
        let mut status = self.shared.status.subscribe();
        let begun = tokio::time::Instant::now();
        let mut pause = ASK_AFTER;
        let mut nudge_at = begun + NUDGE_AFTER;
        let mut nudging: Option<JoinHandle<()>> = None;
        loop {
            let now = *received.borrow_and_update();
            let passed = |lsn, stream| Passed { lsn, accounted: Accounted { stream, snapshot: snapshot.clone() } };
            if now.lsn >= lsn {
                metrics::counter!("lockstep_fences_total", "by" => "position").increment(1);
                return Ok(passed(lsn, now.stream));
            }
            if let Some(before) = before
                && let Some(lsn) = self.shared.complete(before, snapshot)
            {
                metrics::counter!("lockstep_fences_total", "by" => "transactions").increment(1);
                return Ok(passed(lsn, before.stream));
            }
            if let CaptureStatus::Ended(end) = &*status.borrow_and_update() {
                return Err(CaptureError::Ended(end.reason.clone()));
            }
            if begun.elapsed() > FENCE_MAX {
                return Err(CaptureError::TimedOut(format!("the stream did not reach {lsn} within {FENCE_MAX:?}")));
            }
            tokio::select! {
                changed = received.changed() => drop(changed),
                changed = status.changed() => drop(changed),
                () = tokio::time::sleep(pause) => {
                    self.shared.position_wanted.notify_one();
                    pause = (pause * 2).min(Duration::from_millis(100));
                    // Whatever becomes of the nudge, the wait itself goes on: others may flush meanwhile.
                    let again = nudging.as_ref().is_none_or(JoinHandle::is_finished);
                    if again && tokio::time::Instant::now() >= nudge_at {
                        let nudge = nudge();
                        nudging = Some(tokio::spawn(async move { drop(tokio::time::timeout(NUDGE_MAX, nudge).await) }));
                        nudge_at = tokio::time::Instant::now() + NUDGE_AFTER * 10;
                    }
                }
            }
        }
    }
}

fn by_oid(tracked: &[Tracked]) -> Followed {
    Arc::new(tracked.iter().map(|relation| (relation.oid, relation.clone())).collect())
}
