//! What a group does between batches: positions, the slot, indexes, statistics.

use std::time::{Duration, Instant};

use lockstep_wal::Lsn;

use super::{Connected, Group};
use crate::checkpoint;
use crate::error::{BatchError, Side};
use crate::projection::{Projection, Statistics};

/// How often an idle group looks whether somebody waits for its position.
const IDLE_TICK: Duration = Duration::from_millis(100);

/// How often the position of an idle group is written although nobody waits, so that it shows when the group was last current.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(10);

/// A stream that was at the source's position so recently makes an idle group current.
const CURRENT_WITHIN: Duration = Duration::from_secs(3);

impl Group {
    /// Nothing to do: wait for an arrival, and meanwhile keep the position and the slot up to date.
    pub(super) async fn idle(&mut self, connected: &mut Connected) -> Result<(), BatchError> {
        let until = self
            .settings
            .projections
            .iter()
            .filter_map(Projection::next_wake)
            .min()
            .map_or(IDLE_TICK, |wake| wake.saturating_duration_since(Instant::now()).min(IDLE_TICK));
        let behind = self.contained_lsn.is_some_and(|contained| contained < self.snapshot_lsn);
        tokio::select! {
            () = self.capture.arrival(self.settings.index) => return Ok(()),
            // Somebody who has just committed may wait for this position, rather than for the next tick.
            () = self.capture.reached(self.snapshot_lsn), if behind => {}
            changed = self.stop.changed() => {
                drop(changed);
                return Ok(());
            }
            () = tokio::time::sleep(until) => {}
        }
        if behind && self.capture.received() >= self.snapshot_lsn {
            self.snapshot_lsn = Lsn::ZERO;
        }
        let sql_error = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        self.note_flushed(connected).await?;
        let target = connected.sessions.target();
        if self.notices.is_owed() {
            self.notices.send(target).await;
        }
        // First the position, then whether anything waits: in this order nothing can slip in between.
        let received = self.capture.received();
        let dirty = self.capture.with_group(self.settings.index, |dirty| !dirty.is_empty());
        let settled = self.status.borrow().is_settled();
        if dirty
            || !(settled || self.only_awaits())
            || self.contained_lsn.is_some_and(|contained| received <= contained)
            || received == Lsn::ZERO
        {
            self.publish_status();
            return Ok(());
        }
        let due = self.advanced_at.elapsed() >= ADVANCE_INTERVAL;
        if due || settled && checkpoint::somebody_waits(&mut connected.prepared, target).await.map_err(sql_error)? {
            let current = self.capture.current_as_of().is_some_and(|as_of| as_of.elapsed() < CURRENT_WITHIN);
            let epoch = self.settings.leader_epoch;
            let advanced = checkpoint::advance(target, &self.settings.name, epoch, received, current, settled).await;
            if !advanced.map_err(sql_error)? {
                return Err(BatchError::Fenced);
            }
            let row = target.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.map_err(sql_error)?;
            let inserted = row.get::<_, &str>(0).parse().unwrap_or_default();
            self.capture.with_group(self.settings.index, |dirty| dirty.record_until_durable(received, inserted));
            if settled {
                self.contained_lsn = Some(received);
            }
            self.advanced_at = Instant::now();
        }
        self.publish_status();
        Ok(())
    }

    /// Lets the slot move on once the target has made our batches durable.
    async fn note_flushed(&self, connected: &mut Connected) -> Result<(), BatchError> {
        if self.capture.with_group(self.settings.index, |dirty| dirty.awaits_flush_of()).is_none() {
            return Ok(());
        }
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        let target = connected.sessions.target();
        let flushed = connected.prepared.on_target(target, "SELECT pg_current_wal_flush_lsn()::text").await.map_err(at)?;
        let row = target.query_one(&flushed, &[]).await.map_err(at)?;
        let flushed = row.get::<_, &str>(0).parse().unwrap_or_default();
        self.capture.with_group(self.settings.index, |dirty| dirty.flushed(flushed));
        Ok(())
    }

    /// Lets PostgreSQL know how large the tables have become.
    pub(super) async fn analyse(&mut self, index: usize, connected: &Connected) -> Result<(), BatchError> {
        let projection = &mut self.settings.projections[index];
        projection.statistics = Statistics::Gathered;
        let tables = projection.tables();
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        connected.sessions.target().batch_execute(&format!("ANALYZE {}", tables.join(", "))).await.map_err(at)
    }
}
