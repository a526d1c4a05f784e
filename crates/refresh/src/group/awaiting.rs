//! Projections that wait for transactions: what those did to a table before it was followed is in no stream.

use std::time::{Duration, Instant};

use lockstep_capture::RunningTransactions;
use tokio_postgres::Client;

use super::{Connected, Group};
use crate::checkpoint;
use crate::error::{BatchError, Side};
use crate::projection::Projection;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Pause before the transactions are named, and named again.
const NAME_EVERY: Duration = Duration::from_secs(2);

/// When to look next.
pub(super) struct Looks {
    next: Instant,
    name: Instant,
}

impl Default for Looks {
    fn default() -> Self {
        Self { next: Instant::now(), name: Instant::now() + NAME_EVERY }
    }
}

impl Group {
    /// Whether whatever is not live waits for transactions.
    pub(super) fn only_awaits(&self) -> bool {
        let projections = &self.settings.projections;
        projections.iter().all(|projection| projection.is_live() || projection.awaits.is_some())
    }

    /// Lets projections begin whose transactions have ended, and says which the others wait for.
    pub(super) async fn look_at_what_is_awaited(&mut self, connected: &Connected) -> Result<(), BatchError> {
        let waits = |projection: &Projection| projection.awaits.is_some();
        if !self.settings.projections.iter().any(waits) || Instant::now() < self.awaited.next {
            return Ok(());
        }
        self.awaited.next = Instant::now() + LOOK_EVERY;
        let name_them = Instant::now() >= self.awaited.name;
        if name_them {
            self.awaited.name = Instant::now() + NAME_EVERY;
        }
        let source: &Client = &connected.nudge;
        let on_source = |error| BatchError::Sql { side: Side::Source, error, projection: None };
        let on_target = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        for projection in &mut self.settings.projections {
            let Some(running) = projection.awaits.clone() else { continue };
            if running.have_ended(source).await.map_err(on_source)? {
                projection.awaits = None;
                projection.reason = None;
                let (target, epoch) = (connected.sessions.target(), self.settings.leader_epoch);
                checkpoint::write_reason(target, projection.name(), epoch, None).await.map_err(on_target)?;
            } else if name_them {
                let reason = reason(&running, source).await.map_err(on_source)?;
                if projection.reason.as_ref() != Some(&reason) {
                    let (target, epoch) = (connected.sessions.target(), self.settings.leader_epoch);
                    checkpoint::write_reason(target, projection.name(), epoch, Some(&reason)).await.map_err(on_target)?;
                }
                if projection.reason.is_none() {
                    tracing::warn!(projection = projection.name(), "{reason}");
                }
                projection.reason = Some(reason);
            }
        }
        self.publish_status();
        Ok(())
    }
}

async fn reason(running: &RunningTransactions, source: &Client) -> Result<String, tokio_postgres::Error> {
    let names: Vec<String> = running.blockers(source).await?.iter().map(ToString::to_string).collect();
    Ok(format!("it waits for transactions that began before its tables were followed: {}", names.join("; ")))
}
