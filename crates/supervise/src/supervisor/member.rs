//! A group that runs: how it is started, recognised and stopped.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use lockstep_capture::Capture;
use lockstep_config::Config;
use lockstep_refresh::{Group, GroupEnd, GroupSettings, GroupStatus};
use tokio::sync::{mpsc, watch as watched};
use tokio::task::JoinHandle;

use super::grouping::Grouped;
use crate::verification::GroupHandle;

/// How long a group gets to finish its batch when everything stops.
const STOP_MAX: Duration = Duration::from_secs(4);

/// The same while the other groups run on.
const STOP_IN_ORDER_MAX: Duration = Duration::from_mins(5);

/// A group that runs.
pub(super) struct Member {
    pub(super) name: String,
    /// Its place in capture.
    pub(super) index: usize,
    /// Two groups of one identity do the same: it need not be started again.
    pub(super) identity: u64,
    /// All its projections, hidden ones too.
    pub(super) projections: Vec<String>,
    /// The relations that it wants to hear of.
    pub(super) relations: Vec<u32>,
    pub(super) handle: GroupHandle,
    pub(super) status: watched::Receiver<GroupStatus>,
    stop: watched::Sender<bool>,
    pub(super) task: JoinHandle<GroupEnd>,
}

impl Member {
    pub(super) fn start(
        settings: GroupSettings,
        capture: &Capture,
        identity: u64,
        public: Vec<String>,
        relations: Vec<u32>,
    ) -> Self {
        let (commands, commanded) = mpsc::unbounded_channel();
        let (stop, stopped) = watched::channel(false);
        let (name, index) = (settings.name.clone(), settings.index);
        let projections = settings.projections.iter().map(|projection| projection.name().to_owned()).collect();
        let (group, status) = Group::new(settings, capture.clone(), commanded, stopped);
        let handle = GroupHandle { name: name.clone(), projections: public, commands };
        Self { name, index, identity, projections, relations, handle, status, stop, task: tokio::spawn(group.run()) }
    }

    /// Asks it to stop after the batch in work.
    pub(super) fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops it with everything else: a batch that takes too long is given up. The next leader's epoch keeps it from being committed.
    pub(super) async fn stop_now(&mut self) {
        self.ask_to_stop();
        if tokio::time::timeout(STOP_MAX, &mut self.task).await.is_err() {
            tracing::warn!(group = self.name, "a batch did not finish in time; it is rolled back and repeated at the next start");
            self.task.abort();
        }
    }

    /// Stops it while the others run on, after the batch in work: given up, that could still be committed, over what comes after it.
    ///
    /// # Errors
    /// The batch did not come to an end.
    pub(super) async fn stop_in_order(&mut self) -> anyhow::Result<()> {
        self.ask_to_stop();
        match tokio::time::timeout(STOP_IN_ORDER_MAX, &mut self.task).await {
            Ok(_) => Ok(()),
            Err(_) => anyhow::bail!("a batch of group {} did not come to an end within {STOP_IN_ORDER_MAX:?}", self.name),
        }
    }
}

/// Everything that a group does follows from this.
pub(super) fn identity(config: &Config, group: &Grouped<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?} {:?} {:?}", group.linger, config.time_resolution, config.time_schedule).hash(&mut hasher);
    for planned in &group.members {
        // Where it stands among all projections is of no consequence but to those that read it, whose plans name it.
        let node = group.members.iter().any(|other| other.reads.contains(&planned.plan.projection)).then_some(planned.node);
        format!("{node:?} {:?}", lockstep_preflight::Planned { node: 0, ..(*planned).clone() }).hash(&mut hasher);
    }
    hasher.finish()
}
