//! The handle that groups hold: their dirty sets, the fence, and what feedback reports.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockstep_wal::Lsn;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::CaptureError;
use crate::dirty::{Commit, DirtyRelations, DirtySet};
use crate::standby::chooses_us;
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

/// Where capture stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureStatus {
    /// Not connected yet.
    Starting,
    /// The stream runs.
    Streaming,
    /// The connection broke, for this reason; it will be tried again.
    Reconnecting(String),
    /// It cannot go on.
    Ended(StreamEnd),
}

/// Why a stream cannot go on, and where it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// Why.
    pub reason: String,
    /// The server's SQLSTATE, where it was the server that ended it.
    pub sqlstate: Option<String>,
    /// Everything that committed before this position was delivered.
    pub after: Lsn,
    /// The end of the last transaction that was delivered; [`Lsn::ZERO`] if there was none. Unlike `after`, which grows with whatever is
    /// written, it stays when a stream stops at the same transaction again.
    pub last_commit: Lsn,
}

/// A handle on capture. Cheap to clone; the stream ends with the last one.
#[derive(Clone)]
pub struct Capture {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
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

/// A group as capture knows it. Its index stays while others come and go.
struct Member {
    dirty: DirtySet,
    arrived: Arc<Notify>,
    /// Its group has ended; the place is free.
    gone: bool,
}

impl Member {
    fn new(interests: Vec<Interest>, keys_max: usize) -> Self {
        Self { dirty: DirtySet::new(interests, keys_max), arrived: Arc::default(), gone: false }
    }
}

/// Relations by oid.
pub(crate) type Followed = Arc<HashMap<u32, Tracked>>;

pub(crate) struct Shared {
    groups: Mutex<Vec<Member>>,
    followed: watch::Sender<Followed>,
    keys_max: usize,
    received: watch::Sender<Received>,
    last_commit: Mutex<Lsn>,
    restart_wanted: Notify,
    source_position: Mutex<SourcePosition>,
    confirmed: watch::Sender<Lsn>,
    position_wanted: Notify,
    /// Whether the server would choose us for a synchronous standby, so that no position is reported.
    aside: watch::Sender<bool>,
    status: watch::Sender<CaptureStatus>,
}

/// What is known of the source's own position.
#[derive(Default)]
struct SourcePosition {
    /// Where the WAL ended, and when; not reached yet, or only just.
    latest: Option<(Lsn, Instant)>,
    /// The latest time whose position the stream has reached.
    reached: Option<Instant>,
}

/// How far the stream has come. A stream that starts again starts from nothing: what was lost with a crashed target is sent
/// again, and until then no fence may be satisfied by what an earlier stream had reached.
#[derive(Debug, Clone, Copy, Default)]
struct Received {
    stream: u64,
    lsn: Lsn,
    /// The furthest position that any stream has reached.
    furthest: Lsn,
}

impl Shared {
    /// A dirty set is plain data, so a panic elsewhere while it was locked leaves it usable.
    fn groups(&self) -> MutexGuard<'_, Vec<Member>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keys_max(&self) -> usize {
        self.keys_max
    }

    pub(crate) fn add(&self, xid: u32, commit_lsn: Lsn, commit: Commit, relations: &DirtyRelations) {
        let mut last = self.last_commit.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.max(commit_lsn);
        drop(last);
        for member in self.groups().iter_mut().filter(|member| !member.gone) {
            if member.dirty.concerns(relations) {
                member.dirty.add(xid, commit_lsn, commit, relations);
                member.arrived.notify_one();
            }
        }
    }

    /// The relations to follow, and whenever they change.
    pub(crate) fn followed(&self) -> watch::Receiver<Followed> {
        self.followed.subscribe()
    }

    /// A new stream begins; the position starts again. Returns the stream's number.
    pub(crate) fn begin_stream(&self) -> u64 {
        self.received.send_modify(|received| *received = Received { stream: received.stream + 1, lsn: Lsn::ZERO, ..*received });
        self.received.borrow().stream
    }

    /// Stream number `stream` has delivered everything up to `lsn`; ignored if that stream has been given up.
    pub(crate) fn received_up_to(&self, stream: u64, lsn: Lsn) {
        self.received.send_if_modified(|received| {
            let forward = received.stream == stream && lsn > received.lsn;
            if forward {
                received.lsn = lsn;
                received.furthest = received.furthest.max(lsn);
            }
            forward
        });
    }

    pub(crate) async fn restart_wanted(&self) {
        self.restart_wanted.notified().await;
    }

    pub(crate) async fn position_wanted(&self) {
        self.position_wanted.notified().await;
    }

    pub(crate) fn set_status(&self, status: CaptureStatus) {
        self.status.send_replace(status);
    }

    /// The position received and the position up to which every group has committed. Neither ever goes back.
    pub(crate) fn positions_to_report(&self) -> (Lsn, Lsn) {
        // Read the position first: what arrives in between is then held back by the groups, not overtaken.
        let received = self.received.borrow().lsn;
        let groups = self.groups();
        let members = groups.iter().filter(|member| !member.gone);
        let confirmable = members.map(|member| member.dirty.confirmable(received)).min().unwrap_or(received);
        drop(groups);
        let confirmed = confirmable.max(*self.confirmed.borrow());
        (received, confirmed)
    }

    /// The furthest position that any stream has delivered, and the one that was confirmed last.
    pub(crate) fn positions(&self) -> (Lsn, Lsn) {
        (self.received.borrow().furthest, *self.confirmed.borrow())
    }

    /// The last transaction that any stream has delivered.
    pub(crate) fn last_commit(&self) -> Lsn {
        *self.last_commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn streams(&self) -> bool {
        *self.status.borrow() == CaptureStatus::Streaming
    }

    /// Whether no position may be reported.
    pub(crate) fn aside(&self) -> bool {
        *self.aside.borrow()
    }

    /// The server's `synchronous_standby_names` is this.
    pub(crate) fn note_standby_names(&self, setting: &str) {
        let aside = chooses_us(setting);
        let changed = self.aside.send_if_modified(|before| std::mem::replace(before, aside) != aside);
        match (changed, aside) {
            (true, true) => tracing::warn!(
                setting,
                "synchronous_standby_names chooses our stream: it stands aside, so that no commit waits for it; name the standbys"
            ),
            (true, false) => tracing::info!(setting, "synchronous_standby_names does not choose our stream any more"),
            (false, _) => return,
        }
        // Told to the server at once: commits may be waiting.
        self.position_wanted.notify_one();
    }

    pub(crate) fn set_confirmed(&self, lsn: Lsn) {
        self.confirmed.send_replace(lsn);
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
        Self { shared, _task: Arc::new(AbortOnDrop(task)) }
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

    /// Waits until everything up to `lsn` has been received. `nudge` is called when nothing moves: it must make the server flush
    /// its WAL (a tiny commit), because the walsender sends only what is flushed.
    ///
    /// # Errors
    /// Capture has ended, or the position was not reached within a minute.
    pub async fn fence<F: Future<Output = ()>>(&self, lsn: Lsn, nudge: impl Fn() -> F) -> Result<(), CaptureError> {
        let mut received = self.shared.received.subscribe();
        let mut status = self.shared.status.subscribe();
        let begun = tokio::time::Instant::now();
        let mut pause = ASK_AFTER;
        let mut nudge_at = begun + NUDGE_AFTER;
        loop {
            if received.borrow_and_update().lsn >= lsn {
                return Ok(());
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
                    if tokio::time::Instant::now() >= nudge_at {
                        // Whatever becomes of the nudge, the wait itself goes on.
                        drop(tokio::time::timeout(NUDGE_MAX, nudge()).await);
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
