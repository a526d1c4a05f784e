//! What the stream and the groups share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lockstep_wal::Lsn;
use tokio::sync::{Notify, watch};

use crate::accounts::{Accounted, Accounts};
use crate::dirty::{Commit, DirtyRelations, DirtySet};
use crate::snapshot::Snapshot;
use crate::standby::chooses_us;
use crate::tracked::{Interest, Tracked};

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

/// A group as capture knows it. Its index stays while others come and go.
pub(crate) struct Member {
    pub(crate) dirty: DirtySet,
    pub(crate) arrived: Arc<Notify>,
    /// Its group has ended; the place is free.
    pub(crate) gone: bool,
}

impl Member {
    pub(crate) fn new(interests: Vec<Interest>, keys_max: usize) -> Self {
        Self { dirty: DirtySet::new(interests, keys_max), arrived: Arc::default(), gone: false }
    }
}

/// Relations by oid.
pub(crate) type Followed = Arc<HashMap<u32, Tracked>>;

pub(crate) struct Shared {
    pub(crate) groups: Mutex<Vec<Member>>,
    pub(crate) followed: watch::Sender<Followed>,
    pub(crate) keys_max: usize,
    pub(crate) received: watch::Sender<Received>,
    pub(crate) last_commit: Mutex<Lsn>,
    pub(crate) accounts: Mutex<Accounts>,
    pub(crate) restart_wanted: Notify,
    pub(crate) source_position: Mutex<SourcePosition>,
    pub(crate) confirmed: watch::Sender<Lsn>,
    pub(crate) position_wanted: Notify,
    /// Whether the server would choose us for a synchronous standby, so that no position is reported.
    pub(crate) aside: watch::Sender<bool>,
    pub(crate) status: watch::Sender<CaptureStatus>,
}

/// What is known of the source's own position.
#[derive(Default)]
pub(crate) struct SourcePosition {
    /// Where the WAL ended, and when; not reached yet, or only just.
    pub(crate) latest: Option<(Lsn, Instant)>,
    /// The latest time whose position the stream has reached.
    pub(crate) reached: Option<Instant>,
}

/// How far the stream has come. A stream that starts again starts from nothing: what was lost with a crashed target is sent
/// again, and until then no fence may be satisfied by what an earlier stream had reached.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Received {
    pub(crate) stream: u64,
    pub(crate) lsn: Lsn,
    /// The furthest position that any stream has reached.
    pub(crate) furthest: Lsn,
}

impl Shared {
    /// A dirty set is plain data, so a panic elsewhere while it was locked leaves it usable.
    pub(crate) fn groups(&self) -> MutexGuard<'_, Vec<Member>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// Stream number `stream` has delivered a transaction.
    pub(crate) fn add(&self, stream: u64, xid: u32, commit_lsn: Lsn, commit: Commit, relations: &DirtyRelations) {
        let mut last = self.last_commit.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.max(commit_lsn);
        drop(last);
        for member in self.groups().iter_mut().filter(|member| !member.gone) {
            if member.dirty.concerns(relations) {
                member.dirty.add(xid, commit_lsn, commit, relations);
                member.arrived.notify_one();
            }
        }
        // Not before its keys are where a batch takes them from.
        self.accounts().delivered(stream, xid);
    }

    pub(crate) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the stream has come, if it is the one that `before` is of and has delivered everything that `snapshot` sees. The position
    /// is read first: everything before it is with the groups by now.
    pub(crate) fn complete(&self, before: &Accounted, snapshot: &Snapshot) -> Option<Lsn> {
        let received = *self.received.borrow();
        (received.stream == before.stream && self.accounts().complete(before, snapshot)).then_some(received.lsn)
    }

    /// The relations to follow, and whenever they change.
    pub(crate) fn followed(&self) -> watch::Receiver<Followed> {
        self.followed.subscribe()
    }

    /// A new stream begins; the position starts again. Returns the stream's number.
    pub(crate) fn begin_stream(&self) -> u64 {
        self.received.send_modify(|received| *received = Received { stream: received.stream + 1, lsn: Lsn::ZERO, ..*received });
        let stream = self.received.borrow().stream;
        self.accounts().begin_stream(stream);
        stream
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
