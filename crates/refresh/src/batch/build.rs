//! What a projection's phase adds to a batch: pages of a build, and what a fault left to be made good.

use lockstep_capture::KeySet;
use lockstep_connect::TextRef;
use lockstep_plan::Root;
use lockstep_plan::emit::BuildPage;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::trace::{Work, parameters};
use crate::error::{BatchError, Side};
use crate::projection::{BuildPosition, Load, Phase, Statistics, Tracing};
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
        self.projections[index].statistics = Statistics::Missing;
        self.projections[index].forget_quarantine();
        Ok(())
    }

    /// The next page of root keys joins the dirty ones, or its rows are loaded beside: building is refreshing keys that nobody has refreshed
    /// yet.
    async fn build_page(
        &mut self,
        index: usize,
        position: Option<BuildPosition>,
        work: Work,
    ) -> Result<(Work, Phase), BatchError> {
        fail::fail_point!("build_page", |_| std::process::abort());
        let load = self.projections[index].load.take();
        // Nobody has counted what an attempt before has left.
        self.recounts = load.as_ref().is_some_and(|load| load.again);
        let roots: Vec<Root> = self.projections[index].plan.branches().iter().map(|branch| branch.root.clone()).collect();
        let keys = match work {
            Work::Nothing => roots.iter().map(|root| KeySet::new(root.key.len())).collect(),
            Work::Keys(keys) => keys,
            // A relation was truncated or rewritten: do all of it in this batch, and be done.
            Work::Everything => return Ok(all_at_once(roots.len())),
        };
        let position = match position {
            Some(position) => position,
            // Each page would read a table from the start that has no index on what it is paged by.
            None if self.pages_are_dear(index) => return Ok(all_at_once(roots.len())),
            None => {
                match self.projections[index].tracing {
                    // From here on the links are kept up to date, page by page.
                    Tracing::Works | Tracing::LinksMissing => self.fill_links(index).await?,
                    Tracing::GivenUp => self.clear_links(index).await?,
                }
                BuildPosition { branch: 0, key: None }
            }
        };
        let Some(page) = self.projections[index].build_page(position.branch, self.places) else {
            return Ok((Work::Keys(keys), Phase::Building { position: Some(position), exhausted: true }));
        };
        let mut keys = self.built_keys(index, &position, &page, keys).await?;
        let position = match load {
            Some(load) if !load.again => {
                let until = load.until();
                self.projections[index].load = Some(load);
                until
            }
            again => match self.add_page(index, &page, (position, again), &mut keys).await? {
                Some(position) => position,
                None => return Ok(all_at_once(roots.len())),
            },
        };
        let exhausted = position.branch >= roots.len();
        let work = if keys.iter().all(KeySet::is_empty) { Work::Nothing } else { Work::Keys(keys) };
        Ok((work, Phase::Building { position: Some(position), exhausted }))
    }

    /// Of the dirty keys, those of rows that are built, or gone: the pages will have the others as they are then.
    async fn built_keys(
        &mut self,
        index: usize,
        position: &BuildPosition,
        page: &BuildPage,
        mut keys: Vec<KeySet>,
    ) -> Result<Vec<KeySet>, BatchError> {
        let sql = page.built(position.key.is_some());
        for (branch, keys) in keys.iter_mut().enumerate().skip(position.branch) {
            let dirty = std::mem::replace(keys, KeySet::new(keys.columns()));
            if branch > position.branch || dirty.is_empty() {
                continue;
            }
            let arrays = dirty.arrays(0..dirty.len());
            let mut bound = parameters(&arrays);
            bound.extend(position.key.iter().flatten().map(|value| value as &(dyn ToSql + Sync)));
            // There are no more than there were.
            add_rows(keys, &self.page(index, &sql, &bound).await?);
        }
        Ok(keys)
    }

    /// Adds the root keys of the next page, or of pages that an attempt before may have loaded; returns where they end. `None` if there
    /// are more than can be named.
    async fn add_page(
        &mut self,
        index: usize,
        page: &BuildPage,
        (position, again): (BuildPosition, Option<Load>),
        keys: &mut [KeySet],
    ) -> Result<Option<BuildPosition>, BatchError> {
        let after = position.key.as_deref();
        let until = again.as_ref().map(Load::until);
        let (sql, bounds) = match &again {
            Some(load) => {
                let end = load.ends.last().and_then(Option::as_deref);
                (page.keys(), page.range(after, end))
            }
            None => (page.next_keys(after.is_some(), self.page_rows), after.into_iter().flatten().map(Some).collect()),
        };
        let bounds: Vec<&(dyn ToSql + Sync)> = bounds.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = self.page(index, &sql, &bounds).await?;
        if !add_rows(&mut keys[position.branch], &rows) {
            return Ok(None);
        }
        self.projections[index].built_roots += rows.len() as u64;
        self.page_keys = rows.len();
        let last = rows.last().filter(|_| rows.len() >= self.page_rows);
        let key = last.map(|row| (0..row.len()).map(|column| row.get(column)).collect());
        let next = BuildPosition { branch: position.branch + usize::from(key.is_none()), key };
        Ok(Some(until.unwrap_or(next)))
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

/// Everything is refreshed in this batch. It is recorded as the end of the build: no page may come after it.
fn all_at_once(branches: usize) -> (Work, Phase) {
    let position = Some(BuildPosition { branch: branches, key: None });
    (Work::Everything, Phase::Building { position, exhausted: true })
}

/// Adds keys that were read; false if there is no room for them.
fn add_rows(keys: &mut KeySet, rows: &[tokio_postgres::Row]) -> bool {
    rows.iter().all(|row| {
        let fields: Vec<TextRef<'_>> = (0..row.len()).map(|column| row.get(column)).collect();
        keys.insert(&fields.iter().map(|field| field.0).collect::<Vec<&[u8]>>())
    })
}
