//! Loading pages of a build within a batch.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_plan::Maintenance;

use super::BatchRun;
use super::write::Counts;
use crate::error::{BatchError, Side};
use crate::loaders::Loading;
use crate::projection::Load;

impl BatchRun<'_> {
    /// Loads what is planned for a projection, at the batch's snapshot. It comes before whatever else the batch writes to the projection's
    /// tables, so that no session waits for another one of ours.
    pub(super) async fn load_pages(&mut self, index: usize, load: &Load) -> Result<Counts, BatchError> {
        let at = |error| BatchError::Sql { side: Side::Source, error, projection: Some(index) };
        let projection = &self.projections[index];
        let Some(page) = projection.build_page(load.from.branch, self.places) else { return Ok(Counts::default()) };
        let snapshot = self.sessions.source().query_one("SELECT pg_export_snapshot()", &[]).await.map_err(at)?;
        let loading = Loading {
            group: self.group,
            leader_epoch: self.leader_epoch,
            projection: index,
            snapshot: snapshot.get(0),
            time_zone: &projection.time_zone,
            page: &page,
            stage: projection.stages.as_ref().and_then(|stages| stages.get(load.from.branch)),
            load,
        };
        let rows = AtomicU64::new(0);
        let page = async |sessions, number| {
            rows.fetch_add(loading.page(sessions, number).await?, Ordering::Relaxed);
            Ok(())
        };
        self.loaders.share(load.ends.len(), page).await?;
        fail::fail_point!("pages_loaded", |_| std::process::abort());
        let rows = rows.into_inner();
        let projection = &mut self.projections[index];
        projection.built_roots += rows;
        // Contributions are no rows yet.
        let added = if matches!(projection.plan.maintenance, Maintenance::Row(_)) { rows } else { 0 };
        Ok(Counts { added: i64::try_from(added).unwrap_or(i64::MAX), ..Counts::default() })
    }
}
