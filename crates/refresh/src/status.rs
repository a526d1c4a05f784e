//! What a group tells about itself while it runs.

use std::time::Instant;

use lockstep_wal::Lsn;
use serde::Serialize;

/// The life of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectionState {
    /// Known; nothing built yet. Set when the definition is first seen.
    Registered,
    /// Being built. Set by the group when it starts.
    Building,
    /// Equal to its query at every batch. Set by the batch that ends the build, or by the one that mends a fault.
    Live,
    /// Served, but it may have missed changes: all of it is compared and repaired in its next batch. Set when the slot is lost, or a
    /// table or the publication was replaced.
    Degraded,
    /// Set aside because its query or its writes fail. Set by the batch that failed.
    Faulted,
}

impl ProjectionState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Registered, Self::Building, Self::Live, Self::Degraded, Self::Faulted];

    /// The name in the metadata table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Building => "building",
            Self::Live => "live",
            Self::Degraded => "degraded",
            Self::Faulted => "faulted",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A projection's status.
#[derive(Debug, Clone)]
pub struct ProjectionStatus {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ProjectionState,
    /// Rows in its table.
    pub rows: i64,
    /// Root rows read by the build so far.
    pub built_roots: u64,
    /// Why it is faulted.
    pub reason: Option<String>,
    /// Keys that are set aside.
    pub quarantined: usize,
    /// Whether nobody waits for it: a new version, or one that was added to others that are built.
    pub in_making: bool,
}

/// A group's status.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Every commit before this source position is contained; `None` until the group is live.
    pub contained_lsn: Option<Lsn>,
    /// When the read models were last known to be current.
    pub current_as_of: Option<Instant>,
    /// Batches committed since the start.
    pub batches: u64,
    /// Its projections.
    pub projections: Vec<ProjectionStatus>,
    /// Why its batches fail, while they do.
    pub failing: Option<Failing>,
}

/// Batches fail again and again, for a reason that may go away by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since the first of them.
    pub since: Instant,
    /// The last one's error.
    pub reason: String,
}

impl GroupStatus {
    /// Whether every projection is live.
    pub fn is_live(&self) -> bool {
        self.projections.iter().filter(|projection| !projection.in_making).all(|projection| match projection.state {
            ProjectionState::Live => true,
            ProjectionState::Registered | ProjectionState::Building | ProjectionState::Degraded | ProjectionState::Faulted => {
                false
            }
        })
    }

    /// Whether nothing is being built any more.
    pub fn is_settled(&self) -> bool {
        self.projections.iter().filter(|projection| !projection.in_making).all(|projection| match projection.state {
            ProjectionState::Live | ProjectionState::Faulted => true,
            ProjectionState::Registered | ProjectionState::Building | ProjectionState::Degraded => false,
        })
    }
}
