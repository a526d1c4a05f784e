//! What a group does between batches: positions, the slot, indexes, statistics.

use std::time::{Duration, Instant};

use lockstep_plan::quote;
use lockstep_wal::Lsn;

use super::{Connected, Group};
use crate::checkpoint;
use crate::error::{BatchError, Side};
use crate::projection::{Projection, Writing};

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

    /// The configured indexes, once the rows are there: building an index beats maintaining it through the build.
    pub(super) async fn build_indexes(&mut self, index: usize, connected: &Connected) -> Result<(), BatchError> {
        let projection = &mut self.settings.projections[index];
        let target = connected.sessions.target();
        let name = projection.name().to_owned();
        // A predecessor that was cut off may have finished them.
        let built = target
            .query_opt("SELECT FROM lockstep.projection WHERE name = $1 AND indexes_built", &[&name])
            .await
            .map_err(|error| BatchError::Sql { side: Side::Target, error, projection: None })?;
        if built.is_some() {
            projection.indexes_built = true;
            return Ok(());
        }
        let schema = quote::literal(&quote::identifier(&projection.schema));
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: None };
        target.batch_execute("BEGIN").await.map_err(at)?;
        if !checkpoint::still_leads(target, &self.settings.name, self.settings.leader_epoch).await.map_err(at)? {
            connected.sessions.rollback().await;
            return Err(BatchError::Fenced);
        }
        // The rows that are there clash: with the indexes in place the build finds which, and sets them aside.
        let anew = projection.writing == Writing::DeleteFirst && !projection.plan.branches().is_empty();
        let mut script = String::new();
        if anew {
            script.push_str(&format!(
                "TRUNCATE {};\nDELETE FROM lockstep.quarantine WHERE projection = {name};\n\
                 UPDATE lockstep.projection SET row_count = 0, build_position = NULL WHERE name = {name};\n",
                projection.tables().join(", "),
                name = quote::literal(&name)
            ));
        }
        script
            .push_str(&format!("SELECT set_config('search_path', {schema} || ', ' || current_setting('search_path'), true);\n"));
        if let Some(indexes) = &projection.indexes {
            script.push_str(indexes.trim_end().trim_end_matches(';'));
            script.push_str(";\n");
        }
        script.push_str(&format!(
            "UPDATE lockstep.projection SET indexes_built = true WHERE name = {}; COMMIT;",
            quote::literal(&name)
        ));
        if let Err(error) = target.batch_execute(&script).await {
            connected.sessions.rollback().await;
            return Err(BatchError::Sql { side: Side::Target, error, projection: Some(index) });
        }
        projection.indexes_built = true;
        if anew {
            projection.begin_anew();
            return Ok(());
        }
        self.analyse(index, connected).await
    }

    /// Lets PostgreSQL know how large the tables have become.
    pub(super) async fn analyse(&mut self, index: usize, connected: &Connected) -> Result<(), BatchError> {
        let projection = &mut self.settings.projections[index];
        projection.wants_analysis = false;
        let tables = projection.tables();
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        connected.sessions.target().batch_execute(&format!("ANALYZE {}", tables.join(", "))).await.map_err(at)
    }
}
