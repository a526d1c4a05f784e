//! What a projection's phase adds to a batch: pages of a build, and what a fault left to be made good.

use lockstep_capture::KeySet;
use lockstep_connect::TextRef;
use lockstep_plan::Root;
use lockstep_plan::emit::next_root_keys;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::trace::Work;
use crate::error::{BatchError, Side};
use crate::projection::{BuildPosition, Phase, Tracing};
use crate::tables::empty;

impl BatchRun<'_> {
    /// Adds to the traced work what the projection's phase asks for, and tells the phase it ends in.
    pub(super) async fn work_by_phase(&mut self, index: usize, work: Work) -> Result<(Work, Phase), BatchError> {
        let projection = &self.projections[index];
        match &projection.phase {
            Phase::Live => {
                let everything = projection.is_due() || projection.tracing == Tracing::LinksMissing;
                Ok((if everything { Work::Everything } else { work }, Phase::Live))
            }
            Phase::Degraded if projection.awaits.is_some() => Ok((work, Phase::Degraded)),
            // Whatever was missed while it was set aside is made good by refreshing everything.
            Phase::Degraded | Phase::Faulted { was_built: true, .. } => Ok((Work::Everything, Phase::Live)),
            Phase::Faulted { was_built: false, .. } => {
                self.clear(index).await?;
                Ok((Work::Nothing, Phase::Building { position: None, exhausted: false }))
            }
            Phase::Building { exhausted: true, .. } => {
                let finish = if projection.plan.branches().is_empty() { Work::Everything } else { work };
                Ok((finish, Phase::Live))
            }
            Phase::Building { position, exhausted: false } => {
                let position = position.clone();
                if projection.plan.branches().is_empty() {
                    return Ok((Work::Nothing, Phase::Building { position: None, exhausted: true }));
                }
                self.build_page(index, position, work).await
            }
        }
    }

    /// Empties what a failed build left: while it was set aside, rows whose roots are gone now were not removed.
    async fn clear(&mut self, index: usize) -> Result<(), BatchError> {
        let tables = self.projections[index].tables();
        empty(self.sessions.target(), &tables).await.map_err(|error| BatchError::Sql {
            side: Side::Target,
            error,
            projection: Some(index),
        })?;
        self.projections[index].rows_at_batch_start = 0;
        self.projections[index].forget_quarantine();
        Ok(())
    }

    /// The next page of root keys joins the dirty ones: building is refreshing keys that nobody has refreshed yet.
    async fn build_page(
        &mut self,
        index: usize,
        position: Option<BuildPosition>,
        work: Work,
    ) -> Result<(Work, Phase), BatchError> {
        fail::fail_point!("build_page", |_| std::process::abort());
        let roots: Vec<Root> = self.projections[index].plan.branches().iter().map(|branch| branch.root.clone()).collect();
        let mut keys = match work {
            Work::Nothing => roots.iter().map(|root| KeySet::new(root.key.len())).collect(),
            Work::Keys(keys) => keys,
            // A relation was truncated or rewritten: do all of it in this batch, and be done.
            Work::Everything => return Ok((Work::Everything, Phase::Building { position, exhausted: true })),
        };
        let mut position = match position {
            Some(position) => position,
            // Each page would read a table from the start that has no index on what it is paged by.
            None if self.pages_are_dear(index) => {
                return Ok((Work::Everything, Phase::Building { position: None, exhausted: true }));
            }
            None => {
                match self.projections[index].tracing {
                    // From here on the links are kept up to date, page by page.
                    Tracing::Works | Tracing::LinksMissing => self.fill_links(index).await?,
                    Tracing::GivenUp => self.clear_links(index).await?,
                }
                BuildPosition { branch: 0, key: None }
            }
        };
        let Some(root) = roots.get(position.branch) else {
            return Ok((Work::Keys(keys), Phase::Building { position: Some(position), exhausted: true }));
        };
        let sql = next_root_keys(root, position.key.is_none(), self.page_rows);
        let bounds: Vec<&(dyn ToSql + Sync)> = position.key.iter().flatten().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = self.page(index, &sql, &bounds).await?;
        for row in &rows {
            let fields: Vec<TextRef<'_>> = (0..row.len()).map(|column| row.get(column)).collect();
            let bytes: Vec<&[u8]> = fields.iter().map(|field| field.0).collect();
            if !keys[position.branch].insert(&bytes) {
                return Ok((Work::Everything, Phase::Building { position: Some(position), exhausted: true }));
            }
        }
        self.projections[index].built_roots += rows.len() as u64;
        if let Some(row) = rows.last() {
            position.key = Some((0..row.len()).map(|column| row.get(column)).collect());
        }
        if rows.len() < self.page_rows {
            position = BuildPosition { branch: position.branch + 1, key: None };
        }
        let exhausted = position.branch >= roots.len();
        let work = if keys.iter().all(KeySet::is_empty) { Work::Nothing } else { Work::Keys(keys) };
        Ok((work, Phase::Building { position: Some(position), exhausted }))
    }

    fn pages_are_dear(&self, index: usize) -> bool {
        let plan = &self.projections[index].plan;
        plan.branches().iter().any(|branch| plan.relations.get(branch.root.relation).is_some_and(|root| !root.finds_by_hash()))
    }

    async fn page(
        &mut self,
        index: usize,
        sql: &str,
        bounds: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, BatchError> {
        if self.projections[index].plan.reads_projections_only() {
            return self.query_target(index, sql, bounds).await;
        }
        let sql_error = |error| BatchError::Sql { side: Side::Source, error, projection: Some(index) };
        let source = self.sessions.source();
        let statement = self.prepared.on_source(source, sql).await.map_err(sql_error)?;
        source.query(&statement, bounds).await.map_err(sql_error)
    }
}
