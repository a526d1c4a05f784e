//! Which transactions are accounted for: the fence's short way.
//!
//! A batch needs every transaction that its snapshot sees. Waiting for the WAL position of the snapshot gives that, and waits for more:
//! for records of transactions that have not ended, which nobody has flushed yet. Where the stream has delivered each transaction that
//! has become visible since a snapshot that was complete, the new one is complete, too. Whatever took an id and is not delivered (it was
//! rolled back, is a subtransaction, or touched no published table) stays unaccounted for, and the position decides.

use std::collections::{HashSet, VecDeque};

use crate::snapshot::Snapshot;

/// Ids that are remembered; a snapshot that needs older ones waits for its position.
const REMEMBERED_MAX: usize = 8_192;

/// A snapshot for which one stream has delivered everything.
#[derive(Debug, Clone)]
pub struct Accounted {
    pub(crate) stream: u64,
    pub(crate) snapshot: Snapshot,
}

/// Transactions that one stream has delivered lately, and our own, which no stream delivers.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    stream: u64,
    known: HashSet<u32>,
    in_order: VecDeque<u32>,
}

impl Accounts {
    /// What another stream delivered counts no more: a target that was lost may have forgotten it.
    pub(crate) fn begin_stream(&mut self, stream: u64) {
        *self = Self { stream, ..Self::default() };
    }

    /// A stream has delivered a transaction; ignored if that stream has been given up.
    pub(crate) fn delivered(&mut self, stream: u64, xid: u32) {
        if stream == self.stream {
            self.know(xid);
        }
    }

    /// A transaction changes nothing but our own tables.
    pub(crate) fn know(&mut self, xid: u32) {
        if self.known.insert(xid) {
            self.in_order.push_back(xid);
        }
        if self.in_order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Whether everything that `snapshot` sees beyond what `before` saw is known.
    pub(crate) fn complete(&self, before: &Accounted, snapshot: &Snapshot) -> bool {
        before.stream == self.stream
            && snapshot
                .newly_seen(&before.snapshot, REMEMBERED_MAX)
                .is_some_and(|xids| xids.iter().all(|xid| self.known.contains(xid)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Accounted, Accounts, REMEMBERED_MAX};

    fn before(snapshot: &str) -> Accounted {
        Accounted { stream: 1, snapshot: snapshot.parse().unwrap() }
    }

    #[test]
    fn a_snapshot_is_complete_when_all_that_it_newly_sees_was_delivered() {
        let mut accounts = Accounts::default();
        accounts.begin_stream(1);
        let complete = |accounts: &Accounts, text: &str| accounts.complete(&before("10:20:12,15"), &text.parse().unwrap());
        assert!(complete(&accounts, "10:20:12,15"), "nothing is new");
        assert!(complete(&accounts, "12:24:12,15,20,21,22,23"), "nothing new has ended");
        assert!(!complete(&accounts, "12:21:12,15"), "20 has ended");
        accounts.delivered(1, 20);
        assert!(complete(&accounts, "12:21:12,15"));
        assert!(!complete(&accounts, "15:21:15"), "12, which ran, has ended");
        accounts.know(12);
        assert!(complete(&accounts, "15:21:15"));
        assert!(!complete(&accounts, "15:23:15,22"), "21 may be a subtransaction, or was rolled back");
        assert!(!complete(&accounts, "10:19:12,15"), "a snapshot of before says nothing");
    }

    #[test]
    fn another_stream_begins_with_nothing() {
        let mut accounts = Accounts::default();
        accounts.begin_stream(1);
        accounts.delivered(1, 20);
        accounts.begin_stream(2);
        let complete = |accounts: &Accounts| accounts.complete(&before("20:20:"), &"21:21:".parse().unwrap());
        assert!(!complete(&accounts));
        accounts.delivered(1, 20);
        assert!(!complete(&accounts), "a stream that was given up");
        accounts.delivered(2, 20);
        assert!(!complete(&accounts), "what is known to be complete is of another stream");
    }

    #[test]
    fn few_are_remembered() {
        let mut accounts = Accounts::default();
        accounts.begin_stream(1);
        let last = u32::try_from(REMEMBERED_MAX).unwrap() + 1;
        (1..=last).for_each(|xid| accounts.delivered(1, xid));
        let complete = |from: u64, to: u64| {
            let before = Accounted { stream: 1, snapshot: format!("{from}:{from}:").parse().unwrap() };
            accounts.complete(&before, &format!("{to}:{to}:").parse().unwrap())
        };
        assert!(complete(2, u64::from(last) + 1));
        assert!(!complete(1, u64::from(last)), "the first is forgotten");
        assert!(!complete(2, u64::from(last) + 2), "more than can be known");
    }
}
