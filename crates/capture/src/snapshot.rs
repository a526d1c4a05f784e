//! MVCC snapshots, as `pg_current_snapshot()` prints them.

use std::collections::HashSet;
use std::str::FromStr;

/// A snapshot: which transactions it sees. `xmin:xmax:xip,…` with 64-bit transaction ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: HashSet<u64>,
}

/// The text is not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a snapshot")]
pub struct ParseSnapshotError(String);

impl Snapshot {
    /// Whether the snapshot sees a committed transaction, given its 32-bit id as the stream delivers it.
    ///
    /// The id is widened with the epoch that puts it within 2^31 of the snapshot, as transaction ids compare in PostgreSQL.
    pub fn sees(&self, xid: u32) -> bool {
        let full = self.widen(xid);
        full < self.xmax && !self.in_progress.contains(&full)
    }

    /// Whether every transaction up to this one has ended, so that the snapshot sees each that committed.
    pub fn all_ended_up_to(&self, xid: u32) -> bool {
        self.widen(xid) < self.xmin
    }

    /// The later of two ids, as they compare in PostgreSQL.
    pub(crate) fn later_xid(left: u32, right: u32) -> u32 {
        if right.wrapping_sub(left).cast_signed() >= 0 { right } else { left }
    }

    /// The transactions that have ended since an earlier snapshot was taken, as far as this one tells: it sees those of them that
    /// committed. `None` if they are more than `most`, or the other is not earlier.
    pub(crate) fn newly_seen(&self, earlier: &Self, most: usize) -> Option<Vec<u32>> {
        let begun = self.xmax.checked_sub(earlier.xmax)?;
        if begun.saturating_add(earlier.in_progress.len() as u64) > most as u64 {
            return None;
        }
        let ended = |xid: &u64| !self.in_progress.contains(xid);
        Some((earlier.xmax..self.xmax).chain(earlier.in_progress.iter().copied()).filter(ended).map(low_half).collect())
    }

    /// Every transaction below this id has ended for good.
    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    fn widen(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(low_half(self.xmax)).cast_signed();
        self.xmax.saturating_add_signed(i64::from(distance))
    }
}

/// The 32-bit id without its epoch.
fn low_half(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).unwrap_or_default()
}

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, ParseSnapshotError> {
        let parse = || {
            let mut parts = text.split(':');
            let (xmin, xmax, list) = (parts.next()?, parts.next()?, parts.next()?);
            let in_progress = list.split(',').filter(|id| !id.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?;
            Some(Self { xmin: xmin.parse().ok()?, xmax: xmax.parse().ok()?, in_progress })
        };
        parse().ok_or_else(|| ParseSnapshotError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    #[test]
    fn visibility_follows_the_snapshot_not_the_position() {
        let snapshot: Snapshot = "10:20:12,15".parse().unwrap();
        for (xid, seen) in [(9, true), (12, false), (13, true), (15, false), (19, true), (20, false), (25, false)] {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
        assert!("1:2".parse::<Snapshot>().is_err());
        assert!("1:2:".parse::<Snapshot>().unwrap().sees(1));
    }

    #[test]
    fn ids_wrap_around_with_the_epoch() {
        let epoch = 1_u64 << 32;
        let snapshot: Snapshot = format!("{}:{}:", epoch + 5, epoch + 10).parse().unwrap();
        assert!(snapshot.sees(9));
        assert!(!snapshot.sees(10));
        // Just before the wrap-around: the previous epoch.
        assert!(snapshot.sees(u32::MAX));
        let before: Snapshot = format!("{}:{}:", epoch - 5, epoch - 2).parse().unwrap();
        assert!(!before.sees(3), "an id of the next epoch is in the future");
    }
}
