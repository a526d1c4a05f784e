//! Setting a projection aside, and those that read it.

use super::{Connected, Group};
use crate::checkpoint;
use crate::error::BatchError;
use crate::projection::FaultRecord;

impl Group {
    /// Sets a projection aside, and those that read it.
    pub(super) async fn fault(&mut self, index: usize, error: &BatchError, connected: Option<&Connected>) {
        let record = error.record();
        self.set_aside(index, record.clone(), connected).await;
        let mut stale = vec![index];
        for reader in index + 1..self.settings.projections.len() {
            let Some(&read) = self.settings.projections[reader].reads.iter().find(|read| stale.contains(read)) else { continue };
            stale.push(reader);
            let name = self.settings.projections[read].name().to_owned();
            let hint = Some(format!("it comes back by itself when {name} does"));
            self.set_aside(reader, (None, format!("it reads {name}, which is set aside: {}", record.1), hint), connected).await;
        }
        self.publish_status();
    }

    async fn set_aside(&mut self, index: usize, record: FaultRecord, connected: Option<&Connected>) {
        let projection = &mut self.settings.projections[index];
        tracing::error!(
            projection = projection.name(),
            reason = record.1,
            hint = record.2,
            "projection faulted; the others go on"
        );
        projection.fault(record.clone());
        if let Some(connected) = connected {
            let name = projection.name();
            match checkpoint::write_fault(connected.sessions.target(), name, self.settings.leader_epoch, &record).await {
                Ok(()) => projection.fault_recorded(),
                // The group's next batch records it, or does not commit.
                Err(error) => {
                    tracing::warn!(projection = name, error = %lockstep_connect::describe(&error), "recording the fault");
                }
            }
        }
    }
}
