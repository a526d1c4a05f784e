//! Dirty sets: what has committed and not yet reached a group's target.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use lockstep_wal::Lsn;

use crate::keys::KeySet;
use crate::snapshot::Snapshot;
use crate::tracked::Interest;

/// The dirty part of one relation.
#[derive(Debug, Clone)]
pub enum DirtyKeys {
    /// These rows.
    Keys(KeySet),
    /// Any row: truncated, overflowed, or keys are not wanted.
    Whole,
}

impl DirtyKeys {
    /// Adds `other`; collapses to [`DirtyKeys::Whole`] beyond what `keys_max` keys weigh.
    fn absorb(&mut self, other: &Self, keys_max: usize) {
        let full = match (&mut *self, other) {
            (Self::Whole, _) => false,
            (_, Self::Whole) => true,
            (Self::Keys(mine), Self::Keys(theirs)) => !mine.extend(theirs) || mine.weight() > keys_max,
        };
        if full {
            *self = Self::Whole;
        }
    }

    /// The number of keys; a whole relation counts as one.
    pub fn count(&self) -> usize {
        match self {
            Self::Keys(keys) => keys.len(),
            Self::Whole => 1,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Keys(keys) => keys.weight(),
            Self::Whole => 0,
        }
    }

    fn copy(&self) -> Self {
        match self {
            Self::Whole => Self::Whole,
            Self::Keys(keys) => {
                let mut copy = KeySet::new(keys.columns());
                if copy.extend(keys) { Self::Keys(copy) } else { Self::Whole }
            }
        }
    }
}

/// Dirty keys by relation oid.
pub(crate) type DirtyRelations = HashMap<u32, DirtyKeys>;

/// Committed transactions whose visibility is not known yet: mostly one, more after a backlog was merged.
#[derive(Debug, Clone)]
struct Pending {
    visible_if: Visibility,
    /// The oldest transaction's commit record and arrival.
    commit_lsn: Lsn,
    received: Commit,
    transactions: u64,
    relations: DirtyRelations,
}

/// When a snapshot sees a block of transactions.
#[derive(Debug, Clone)]
enum Visibility {
    /// When it sees each of these.
    All(Vec<u32>),
    /// When everything up to this one has ended: coarser, for a backlog of which the single ids would take too much room.
    UpTo(u32),
}

impl Visibility {
    fn holds(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::All(xids) => xids.iter().all(|&xid| snapshot.sees(xid)),
            Self::UpTo(last) => snapshot.all_ended_up_to(*last),
        }
    }

    /// What is left to be seen of transactions of which a snapshot sees some.
    fn rest(&self, snapshot: &Snapshot) -> Option<Self> {
        match self {
            Self::All(xids) => {
                let rest: Vec<u32> = xids.iter().copied().filter(|&xid| !snapshot.sees(xid)).collect();
                (rest.len() < xids.len()).then_some(Self::All(rest))
            }
            Self::UpTo(_) => None,
        }
    }

    fn merge(self, later: Self) -> Self {
        match (self, later) {
            (Self::All(mut xids), Self::All(more)) if xids.len() + more.len() <= XIDS_MAX => {
                xids.extend(more);
                Self::All(xids)
            }
            (earlier, later) => Self::UpTo(Snapshot::later_xid(earlier.last(), later.last())),
        }
    }

    fn last(&self) -> u32 {
        match self {
            Self::All(xids) => xids.iter().copied().reduce(Snapshot::later_xid).unwrap_or_default(),
            Self::UpTo(last) => *last,
        }
    }
}

/// While nothing takes from a dirty set, at most this many blocks of transactions are kept apart; more are merged pairwise.
const BLOCKS_MAX: usize = 4_096;

/// Keys of a relation that wait in transactions that are not visible yet, in multiples of what one batch may have.
const WAITING_MAX: usize = 8;

/// Transaction ids remembered one by one in a block.
const XIDS_MAX: usize = 65_536;

/// When a transaction committed, for measuring freshness.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Source clock, microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
    /// Our clock when the commit was received.
    pub received_at: Instant,
}

/// At most this many commits are remembered for the freshness histogram; a batch of more is a sample.
const COMMITS_REMEMBERED_MAX: usize = 10_000;

/// At most this many batches are told apart while they wait for the target's WAL writer.
const VOLATILE_BATCHES_MAX: usize = 64;

/// Transactions that a snapshot saw, merged: the work of one batch.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// What to refresh.
    pub relations: DirtyRelations,
    /// The commit record of the oldest transaction in it.
    pub oldest_commit_lsn: Option<Lsn>,
    /// The transactions' commits (a sample, if there are very many).
    pub commits: Vec<Commit>,
    /// How many transactions it holds.
    pub transactions: u64,
}

impl Batch {
    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// The number of dirty keys.
    pub fn keys(&self) -> usize {
        self.relations.values().map(DirtyKeys::count).sum()
    }

    fn absorb(
        &mut self,
        relations: DirtyRelations,
        commit_lsn: Option<Lsn>,
        commits: &[Commit],
        transactions: u64,
        keys_max: usize,
    ) {
        absorb(&mut self.relations, relations, keys_max);
        self.oldest_commit_lsn = match (self.oldest_commit_lsn, commit_lsn) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let room = COMMITS_REMEMBERED_MAX.saturating_sub(self.commits.len());
        self.commits.extend(commits.iter().take(room));
        self.transactions += transactions;
    }
}

/// Adds dirty relations to others.
fn absorb(into: &mut DirtyRelations, relations: DirtyRelations, keys_max: usize) {
    for (oid, keys) in relations {
        match into.entry(oid) {
            Entry::Occupied(mut entry) => entry.get_mut().absorb(&keys, keys_max),
            Entry::Vacant(entry) => {
                entry.insert(keys);
            }
        }
    }
}

/// What has committed and concerns one group.
#[derive(Debug)]
pub struct DirtySet {
    interests: Vec<Interest>,
    keys_max: usize,
    /// Commits in order of arrival, which is commit order.
    pending: VecDeque<Pending>,
    /// What the keys that wait in these weigh, by relation.
    weights: HashMap<u32, usize>,
    /// Seen by some snapshot, and so by all later ones; not yet taken, or given back.
    settled: Batch,
    /// The oldest commit of the batch that is being worked on, and when it was received.
    in_flight: Option<Lsn>,
    in_flight_since: Option<Instant>,
    /// Batches committed to the target but perhaps not yet durable there: the oldest commit record of each, and the target's
    /// position that must be flushed.
    volatile: VecDeque<(Lsn, Lsn)>,
    /// The source position that the target durably records for this group.
    recorded: Lsn,
    /// Records that are perhaps not yet durable: the source position, and the target's that must be flushed.
    recording: VecDeque<(Lsn, Lsn)>,
}

impl DirtySet {
    /// An empty set. `keys_max` bounds the keys kept for each relation.
    pub fn new(interests: Vec<Interest>, keys_max: usize) -> Self {
        Self {
            interests,
            keys_max,
            pending: VecDeque::new(),
            weights: HashMap::new(),
            settled: Batch::default(),
            in_flight: None,
            in_flight_since: None,
            volatile: VecDeque::new(),
            recorded: Lsn::ZERO,
            recording: VecDeque::new(),
        }
    }

    /// The group reads these from now on; what has arrived stays, and a batch that was given up with its task does not.
    pub(crate) fn set_interests(&mut self, interests: Vec<Interest>) {
        self.interests = interests;
        self.done();
    }

    /// What waits in another set waits here, too, and what it holds the slot for.
    pub(crate) fn inherit(&mut self, other: &Self) {
        self.pending.extend(other.pending.iter().cloned());
        self.pending.make_contiguous().sort_by_key(|transaction| transaction.commit_lsn);
        let Batch { relations, oldest_commit_lsn, commits, transactions } = other.settled.clone();
        self.settled.absorb(relations, oldest_commit_lsn, &commits, transactions, self.keys_max);
        self.volatile.extend(&other.volatile);
        self.volatile.make_contiguous().sort_by_key(|&(_, target_lsn)| target_lsn);
        self.weigh();
    }

    /// Whether the group reads one of the relations.
    pub(crate) fn concerns(&self, relations: &DirtyRelations) -> bool {
        self.interests.iter().any(|interest| relations.contains_key(&interest.oid))
    }

    /// Adds a committed transaction. `relations` is copied: other groups want it too.
    pub(crate) fn add(&mut self, xid: u32, commit_lsn: Lsn, received: Commit, relations: &DirtyRelations) {
        let mine: DirtyRelations = self
            .interests
            .iter()
            .filter_map(|interest| {
                let keys = relations.get(&interest.oid)?;
                Some((interest.oid, if interest.keys_wanted { keys.copy() } else { DirtyKeys::Whole }))
            })
            .collect();
        let grown: Vec<u32> = mine.keys().copied().collect();
        for (oid, keys) in &mine {
            *self.weights.entry(*oid).or_default() += keys.weight();
        }
        if !mine.is_empty() {
            let visible_if = Visibility::All(vec![xid]);
            self.pending.push_back(Pending { visible_if, commit_lsn, received, transactions: 1, relations: mine });
        }
        for oid in grown {
            self.lighten(oid);
        }
        if self.pending.len() > BLOCKS_MAX {
            self.merge_backlog();
        }
    }

    /// A relation of which too much waits, in however many transactions, is whole in all of them: rows of a table without a key may be
    /// long.
    fn lighten(&mut self, oid: u32) {
        if self.weights.get(&oid).is_none_or(|&weight| weight <= self.keys_max.saturating_mul(WAITING_MAX)) {
            return;
        }
        for transaction in &mut self.pending {
            if let Some(keys) = transaction.relations.get_mut(&oid) {
                *keys = DirtyKeys::Whole;
            }
        }
        self.weights.remove(&oid);
    }

    /// Halves the number of blocks: each takes in its successor.
    fn merge_backlog(&mut self) {
        let keys_max = self.keys_max;
        let mut merged: VecDeque<Pending> = VecDeque::with_capacity(self.pending.len() / 2 + 1);
        let mut rest = std::mem::take(&mut self.pending).into_iter();
        while let Some(mut block) = rest.next() {
            if let Some(next) = rest.next() {
                block.visible_if = block.visible_if.merge(next.visible_if);
                block.transactions += next.transactions;
                absorb(&mut block.relations, next.relations, keys_max);
            }
            merged.push_back(block);
        }
        self.pending = merged;
        self.weigh();
    }

    fn weigh(&mut self) {
        self.weights.clear();
        for (oid, keys) in self.pending.iter().flat_map(|transaction| &transaction.relations) {
            *self.weights.entry(*oid).or_default() += keys.weight();
        }
    }

    /// Takes what a snapshot sees. The rest stays: it has committed, but the snapshot does not see it.
    pub fn take(&mut self, snapshot: &Snapshot) -> Batch {
        let mut waiting = VecDeque::new();
        for mut transaction in std::mem::take(&mut self.pending) {
            if transaction.visible_if.holds(snapshot) {
                let Pending { commit_lsn, received, relations, transactions, .. } = transaction;
                self.settled.absorb(relations, Some(commit_lsn), &[received], transactions, self.keys_max);
            } else {
                // Nobody knows any more whose the keys of a merged block are: they are refreshed now, and again when all of it is seen.
                if let Some(rest) = transaction.visible_if.rest(snapshot) {
                    transaction.visible_if = rest;
                    let copies = transaction.relations.iter().map(|(&oid, keys)| (oid, keys.copy())).collect();
                    self.settled.absorb(copies, Some(transaction.commit_lsn), &[], 0, self.keys_max);
                }
                waiting.push_back(transaction);
            }
        }
        self.pending = waiting;
        self.weigh();
        let batch = std::mem::take(&mut self.settled);
        self.in_flight = batch.oldest_commit_lsn;
        self.in_flight_since = batch.commits.first().map(|commit| commit.received_at);
        batch
    }

    /// The batch is committed in the target, and durable.
    pub fn done(&mut self) {
        self.in_flight = None;
        self.in_flight_since = None;
    }

    /// The batch failed; its work stays to be done.
    pub fn give_back(&mut self, batch: Batch) {
        self.in_flight = None;
        self.in_flight_since = None;
        let Batch { relations, oldest_commit_lsn, commits, transactions } = batch;
        self.settled.absorb(relations, oldest_commit_lsn, &commits, transactions, self.keys_max);
    }

    /// The batch is committed in the target, asynchronously: until the target has flushed `target_lsn`, its transactions must
    /// stay re-readable.
    pub fn done_until_durable(&mut self, target_lsn: Lsn) {
        self.in_flight_since = None;
        let Some(oldest) = self.in_flight.take() else { return };
        let is_full = self.volatile.len() >= VOLATILE_BATCHES_MAX;
        match self.volatile.back_mut() {
            // Coarser steps, so that a target that flushes slowly costs no memory.
            Some((earlier, last)) if is_full => {
                *earlier = (*earlier).min(oldest);
                *last = target_lsn;
            }
            Some(_) | None => self.volatile.push_back((oldest, target_lsn)),
        }
    }

    /// The target records, with what it writes up to `target_lsn`, that the group contains everything before `source_lsn`. The slot is
    /// confirmed no further than what is recorded: by that a slot that is not ours is known.
    pub fn record_until_durable(&mut self, source_lsn: Lsn, target_lsn: Lsn) {
        let is_full = self.recording.len() >= VOLATILE_BATCHES_MAX;
        match self.recording.back_mut() {
            Some(last) if is_full => *last = (source_lsn, target_lsn),
            Some(_) | None => self.recording.push_back((source_lsn, target_lsn)),
        }
    }

    /// What the target recorded in an earlier life.
    pub fn recorded(&mut self, source_lsn: Lsn) {
        self.recorded = source_lsn;
        self.recording.clear();
    }

    /// The target's position that must be flushed before the slot may be confirmed further, if any.
    pub fn awaits_flush_of(&self) -> Option<Lsn> {
        let volatile = self.volatile.front().map(|&(_, target_lsn)| target_lsn);
        volatile.or_else(|| self.recording.front().map(|&(_, target_lsn)| target_lsn))
    }

    /// The target has flushed up to `flushed`.
    pub fn flushed(&mut self, flushed: Lsn) {
        while self.volatile.front().is_some_and(|&(_, target_lsn)| target_lsn <= flushed) {
            self.volatile.pop_front();
        }
        while let Some(&(source_lsn, target_lsn)) = self.recording.front()
            && target_lsn <= flushed
        {
            self.recorded = self.recorded.max(source_lsn);
            self.recording.pop_front();
        }
    }

    /// Whether there is anything to refresh, visible or not.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.settled.is_empty()
    }

    /// Dirty keys that wait, by relation.
    pub fn waiting_keys_by_relation(&self) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        let pending = self.pending.iter().flat_map(|transaction| &transaction.relations);
        for (oid, keys) in pending.chain(&self.settled.relations) {
            *counts.entry(*oid).or_default() += keys.count();
        }
        counts
    }

    /// The commit record of the oldest transaction that waits, not counting a batch in work.
    pub fn oldest_waiting_lsn(&self) -> Option<Lsn> {
        self.pending.iter().map(|transaction| transaction.commit_lsn).chain(self.settled.oldest_commit_lsn).min()
    }

    /// When the oldest transaction that is not visible in the target was received.
    pub fn oldest_waiting_since(&self) -> Option<Instant> {
        let pending = self.pending.front().map(|transaction| transaction.received.received_at);
        let settled = self.settled.commits.first().map(|commit| commit.received_at);
        [pending, settled, self.in_flight_since].into_iter().flatten().min()
    }

    /// Up to where the slot may be confirmed as far as this group is concerned, given what was received.
    pub(crate) fn confirmable(&self, received: Lsn) -> Lsn {
        let volatile = self.volatile.iter().map(|&(oldest, _)| oldest).min();
        [self.oldest_waiting_lsn(), self.in_flight, volatile, Some(self.recorded)].into_iter().flatten().fold(received, Lsn::min)
    }
}

#[cfg(test)]
mod tests;
