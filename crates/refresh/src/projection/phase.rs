//! Where a projection stands, and how that is recorded.

use std::time::{Duration, Instant};

use lockstep_connect::{Repertoire, Text};

use crate::status::ProjectionState;
use crate::tables::Registered;

/// First and longest pause before a faulted projection is tried again.
pub(super) const FAULT_RETRY: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_mins(5);

/// Where a projection stands.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Root keys up to `position` are built; `exhausted` when there are no more.
    Building { position: Option<BuildPosition>, exhausted: bool },
    /// Equal to its query at every batch.
    Live,
    /// It may have missed changes; the next batch compares all of it.
    Degraded,
    /// Set aside.
    Faulted { retry_at: Instant, pause: Duration, was_built: bool },
}

/// How far a build has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuildPosition {
    /// The branch in work; those before it are done.
    pub(crate) branch: usize,
    /// The last root key of it that was read.
    pub(crate) key: Option<Vec<Text>>,
}

impl BuildPosition {
    /// As it is recorded, whatever the target's encoding: the branch's number, then the key's columns.
    pub(crate) fn to_texts(&self) -> Vec<String> {
        let key = self.key.iter().flatten().map(|text| text.recorded(Repertoire::Ascii).into_owned());
        std::iter::once(self.branch.to_string()).chain(key).collect()
    }

    pub(super) fn from_texts(texts: &[String]) -> Option<Self> {
        let (branch, key) = texts.split_first()?;
        let key = (!key.is_empty()).then(|| key.iter().map(|text| Text::from_recorded(text)).collect());
        Some(Self { branch: branch.parse().ok()?, key })
    }
}

/// Pages of a build that are loaded in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Load {
    /// Where the first begins.
    pub(crate) from: BuildPosition,
    /// The last root key of each; `None`: to the end of the branch.
    pub(crate) ends: Vec<Option<Vec<Text>>>,
    /// An attempt before may have left rows of them.
    pub(crate) again: bool,
}

impl Load {
    /// What an attempt before may have left.
    pub(crate) fn again(from: BuildPosition, until: BuildPosition) -> Self {
        Self { from, ends: vec![until.key], again: true }
    }

    /// Where the last ends.
    pub(crate) fn until(&self) -> BuildPosition {
        match self.ends.last() {
            Some(Some(key)) => BuildPosition { branch: self.from.branch, key: Some(key.clone()) },
            Some(None) | None => BuildPosition { branch: self.from.branch + 1, key: None },
        }
    }
}

impl Phase {
    /// Where a registered projection stands.
    pub(super) fn of(registered: &Registered) -> Self {
        match registered.state {
            ProjectionState::Live => Self::Live,
            ProjectionState::Degraded => Self::Degraded,
            ProjectionState::Registered | ProjectionState::Building => Self::Building {
                position: registered.build_position.as_deref().and_then(BuildPosition::from_texts),
                exhausted: false,
            },
            ProjectionState::Faulted => {
                Self::Faulted { retry_at: Instant::now(), pause: *FAULT_RETRY.start(), was_built: registered.was_built }
            }
        }
    }

    pub(crate) fn state(&self) -> ProjectionState {
        match self {
            Self::Building { .. } => ProjectionState::Building,
            Self::Live => ProjectionState::Live,
            Self::Degraded => ProjectionState::Degraded,
            Self::Faulted { .. } => ProjectionState::Faulted,
        }
    }
}

/// What is recorded about a projection with each batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Rows in its table.
    pub rows: i64,
    /// Its state.
    pub state: ProjectionState,
    /// How far the build has come.
    pub build_position: Option<Vec<String>>,
}

impl Progress {
    /// As it was recorded last.
    pub(super) fn of(registered: &Registered) -> Self {
        Self { rows: registered.rows, state: registered.state, build_position: registered.build_position.clone() }
    }
}
