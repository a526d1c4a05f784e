//! What a group is made of, and what it can be asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use lockstep_plan::emit::Places;

use crate::observer::BatchObserver;
use crate::projection::Projection;
use crate::sessions::Endpoints;
use crate::suspects::Suspects;

/// Whether batches wait for the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencePolicy {
    /// Always, in production.
    Wait,
    /// Never: only for the test that shows what the fence is for.
    SkipForNegativeControl,
}

/// Tuning of batches. The defaults are meant to be left alone.
#[derive(Debug, Clone)]
pub struct RefreshOptions {
    /// Keys bound to one statement.
    pub statement_keys_max: usize,
    /// Root keys named in one batch of a projection; more refresh everything.
    pub root_keys_max: usize,
    /// Groups recomputed by name in one batch; more recompute all.
    pub groups_max: usize,
    /// Root keys in a build's page at most.
    pub page_rows_max: usize,
    /// Sessions that load pages of a build, and make indexes, at the same time.
    pub load_sessions: usize,
    /// Keys of one projection that are set aside one by one; if more fail, the projection is.
    pub quarantined_max: usize,
    /// Share of the time that whole recomputation may take.
    pub whole_share: f64,
    /// How often projections that depend on the time as a whole are recomputed.
    pub schedule: Duration,
    /// How often to look for rows that come or go with the time.
    pub time_resolution: Duration,
    /// See [`FencePolicy`].
    pub fence: FencePolicy,
}

impl Default for RefreshOptions {
    fn default() -> Self {
        Self {
            statement_keys_max: 10_000,
            root_keys_max: 250_000,
            groups_max: 100_000,
            page_rows_max: 20_000,
            load_sessions: 3,
            quarantined_max: 1_000,
            whole_share: 0.2,
            schedule: Duration::from_mins(1),
            time_resolution: Duration::from_secs(1),
            fence: FencePolicy::Wait,
        }
    }
}

/// What a group is made of.
pub struct GroupSettings {
    /// Its name.
    pub name: String,
    /// Its index in capture.
    pub index: usize,
    /// How long to gather more changes after the first.
    pub linger: Duration,
    /// Its projections, in the order in which they are refreshed.
    pub projections: Vec<Projection>,
    /// Where source and target are.
    pub endpoints: Endpoints,
    /// Where the tables are.
    pub places: Places,
    /// Tuning.
    pub options: RefreshOptions,
    /// Our turn as writer; see [`crate::claim_group`].
    pub leader_epoch: i64,
    /// Told about every batch.
    pub observer: Option<Arc<dyn BatchObserver>>,
}

/// What a running group can be asked for.
#[derive(Debug)]
pub enum GroupCommand {
    /// Commit a batch soon, even if there is nothing to do, with everything that depends on the time computed anew.
    Boundary,
    /// Refresh rows that were found to differ.
    Repair {
        /// Of this projection.
        projection: String,
        /// Which.
        suspects: Suspects,
        /// Told how many rows changed without a change in the source to explain it; dropped if nothing is done.
        reply: Option<oneshot::Sender<i64>>,
    },
    /// Try the keys in quarantine again now.
    RetryQuarantine {
        /// Of this projection; of all if `None`.
        projection: Option<String>,
    },
}
