//! Switches for embedders.

use std::sync::Arc;
use std::time::Duration;

use lockstep_refresh::{BatchObserver, GroupStatus, RefreshOptions};
use tokio::sync::watch as watched;

/// Switches for embedders: the demonstration and tests.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Told about every batch.
    pub observer: Option<Arc<dyn BatchObserver>>,
    /// Tuning of batches.
    pub options: RefreshOptions,
    /// Where the statuses of the groups are published.
    pub statuses: Option<watched::Sender<Vec<watched::Receiver<GroupStatus>>>>,
    /// No progress bar.
    pub quiet: bool,
    /// Nothing happens by schedule: no view is made or refreshed, nothing verified.
    pub no_schedules: bool,
    /// How often to look at the source's schema, if not as usual.
    pub look_at_schema_every: Option<Duration>,
    /// Changes when the configuration file is to be read again.
    pub reload: Option<watched::Receiver<u64>>,
}
