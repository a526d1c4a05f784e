//! Rows that differ, and how they are refreshed.

use tokio::sync::oneshot;

use crate::quarantine::Key;

/// How a row that differs is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspectKind {
    /// As the rows, or the contributions, of a root key of this branch.
    Root(usize),
    /// As a group.
    Group,
    /// With all groups.
    AllGroups,
    /// As a row of a relation that this link follows: branch and role.
    Link(usize, usize),
    /// By making the accumulators anew.
    Accumulator,
    /// With everything.
    Everything,
}

/// Rows that differ from their definition, to be refreshed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    pub(crate) everything: bool,
    pub(crate) all_groups: bool,
    pub(crate) accumulators: bool,
    pub(crate) roots: Vec<(usize, Key)>,
    pub(crate) groups: Vec<Key>,
    pub(crate) links: Vec<(usize, usize, Key)>,
}

/// More suspects than this are not named: everything is refreshed.
const SUSPECTS_MAX: usize = 100_000;

impl Suspects {
    /// All of a projection.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether there is nothing to refresh.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what a row that differs asks for.
    pub fn add(&mut self, kind: SuspectKind, key: Key) {
        if self.roots.len() + self.groups.len() + self.links.len() > SUSPECTS_MAX {
            self.everything = true;
        }
        match kind {
            // A key that cannot be: somebody wrote it by hand.
            SuspectKind::Root(_) | SuspectKind::Link(..) if key.iter().any(Option::is_none) => self.everything = true,
            SuspectKind::Root(branch) => self.roots.push((branch, key)),
            SuspectKind::Group => self.groups.push(key),
            SuspectKind::AllGroups => self.all_groups = true,
            SuspectKind::Link(branch, role) => self.links.push((branch, role, key)),
            SuspectKind::Accumulator => self.accumulators = true,
            SuspectKind::Everything => self.everything = true,
        }
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        self.everything |= other.everything;
        self.all_groups |= other.all_groups;
        self.accumulators |= other.accumulators;
        self.roots.extend(other.roots);
        self.groups.extend(other.groups);
        self.links.extend(other.links);
    }
}

/// Suspects on their way into a batch.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    pub(crate) suspects: Suspects,
    /// Told how many rows the repair changed without a change in the source to explain it.
    pub(crate) replies: Vec<oneshot::Sender<i64>>,
}
