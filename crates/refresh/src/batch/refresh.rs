//! Refreshing one projection's part of a batch.

use std::collections::HashSet;
use std::time::Instant;

use lockstep_capture::{Batch, DirtyKeys, KeySet};
use lockstep_plan::sql::{Merge, next_root_keys};
use lockstep_plan::{Maintenance, Root, quote};
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::trace::{Work, parameters};
use crate::error::{BatchError, Side};
use crate::projection::{BuildPosition, Phase, Statements, Tracing};

/// Rows written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: i64,
    pub(crate) changed: i64,
    pub(crate) gone: i64,
    duplicates: i64,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            added: self.added + other.added,
            changed: self.changed + other.changed,
            gone: self.gone + other.gone,
            duplicates: self.duplicates + other.duplicates,
        }
    }

    fn row_delta(self) -> i64 {
        self.added - self.gone
    }
}

/// Groups to recompute.
enum Groups {
    /// These, one array of texts for each group column.
    Some(Vec<Vec<Option<String>>>),
    All,
}

impl BatchRun<'_> {
    pub(crate) async fn refresh_projection(&mut self, index: usize, batch: &Batch) -> Result<(), BatchError> {
        let tracing_began = Instant::now();
        let work = self.trace(index, batch).await?;
        self.measure_phase("trace", tracing_began);
        let (work, phase) = self.work_by_phase(index, work).await?;
        let began = Instant::now();
        // While an aggregate is built its groups are not kept; the batch that ends the build makes them all, once.
        let was_building = self.projections[index].is_building();
        let mut counts = match work {
            Work::Nothing => Counts::default(),
            Work::Keys(keys) => self.refresh_keys(index, &keys, was_building).await?,
            Work::Everything => self.refresh_everything(index).await?,
        };
        if was_building && matches!(phase, Phase::Live) && matches!(self.sql[index], Statements::Grouped { .. }) {
            self.fill_accumulators(index).await?;
            counts = counts.plus(self.recompute_groups(index, Groups::All).await?);
        }
        if counts.duplicates > 0 {
            return Err(BatchError::DuplicateKey { projection: index, duplicates: counts.duplicates });
        }
        self.measure_phase("merge", began);
        self.count_rows(index, counts);
        self.projections[index].stage_progress(phase, counts.row_delta());
        Ok(())
    }

    /// Adds to the traced work what the projection's phase asks for, and tells the phase it ends in.
    async fn work_by_phase(&mut self, index: usize, work: Work) -> Result<(Work, Phase), BatchError> {
        let projection = &self.projections[index];
        match &projection.phase {
            Phase::Live => {
                let everything = projection.is_due() || projection.tracing == Tracing::LinksMissing;
                Ok((if everything { Work::Everything } else { work }, Phase::Live))
            }
            // Whatever was missed while it was set aside is made good by refreshing everything.
            Phase::Faulted { was_built: true, .. } => Ok((Work::Everything, Phase::Live)),
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
        let projection = &self.projections[index];
        let states = projection.plan.state_tables();
        let tables: Vec<String> = std::iter::once(quote::qualified(&projection.schema, projection.name()))
            .chain(states.iter().map(|state| quote::qualified("lockstep", &state.name)))
            .collect();
        self.sessions
            .target()
            .batch_execute(&format!("TRUNCATE {}", tables.join(", ")))
            .await
            .map_err(|error| BatchError::Sql { side: Side::Target, error, projection: Some(index) })?;
        self.projections[index].rows_at_batch_start = 0;
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
            None => {
                // From here on the links are kept up to date, page by page.
                self.fill_links(index).await?;
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
            let fields: Vec<&str> = (0..row.len()).map(|column| row.get(column)).collect();
            let bytes: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
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

    async fn refresh_keys(&mut self, index: usize, keys: &[KeySet], building: bool) -> Result<Counts, BatchError> {
        let mut counts = Counts::default();
        let mut touched = Touched::default();
        for (branch, keys) in keys.iter().enumerate() {
            let mut start = 0;
            while start < keys.len() {
                let end = (start + self.options.statement_keys_max).min(keys.len());
                let arrays = keys.arrays(start..end);
                let bound = parameters(&arrays);
                match &self.sql[index] {
                    Statements::Row { bound: merge, .. } => {
                        self.stage(index, branch, Some(&bound)).await?;
                        counts = counts.plus(self.merge(index, merge, &bound).await?);
                    }
                    Statements::Grouped { branches, .. } => {
                        self.stage(index, branch, Some(&bound)).await?;
                        let statements = &branches[branch];
                        let sql = if building { &statements.contributions } else { &statements.live_contributions };
                        let rows = self.query_target(index, sql, &bound).await?;
                        if !building {
                            touched.add(&rows, self.options.groups_max);
                        }
                    }
                    Statements::Whole { .. } => return self.refresh_everything(index).await,
                }
                start = end;
            }
        }
        match touched.groups() {
            Some(Groups::Some(mut columns)) => {
                if self.found_by_root(index) {
                    columns.extend(keys.first().map(all_texts).unwrap_or_default());
                }
                self.recompute_groups(index, Groups::Some(columns)).await
            }
            Some(Groups::All) => self.recompute_groups(index, Groups::All).await,
            None => Ok(counts),
        }
    }

    fn found_by_root(&self, index: usize) -> bool {
        matches!(&self.projections[index].plan.maintenance, Maintenance::Grouped(grouped) if grouped.found_by_root)
    }

    async fn refresh_everything(&mut self, index: usize) -> Result<Counts, BatchError> {
        match self.projections[index].tracing {
            Tracing::Works | Tracing::LinksMissing => self.fill_links(index).await?,
            Tracing::GivenUp => self.clear_links(index).await?,
        }
        let counts = match &self.sql[index] {
            Statements::Row { everything, .. } | Statements::Whole { everything } => {
                self.stage(index, 0, None).await?;
                self.merge(index, everything, &[]).await?
            }
            Statements::Grouped { branches, .. } => {
                for (branch, statements) in branches.iter().enumerate() {
                    self.stage(index, branch, None).await?;
                    self.query_target(index, &statements.all_contributions, &[]).await?;
                }
                self.fill_accumulators(index).await?;
                self.recompute_groups(index, Groups::All).await?
            }
        };
        let projection = &mut self.projections[index];
        projection.due_after_batch = projection.due_at.map(|_| Instant::now() + self.options.schedule);
        Ok(counts)
    }

    /// Makes the accumulators, if there are any, from the contributions.
    async fn fill_accumulators(&mut self, index: usize) -> Result<(), BatchError> {
        let Statements::Grouped { fill, .. } = &self.sql[index] else { return Ok(()) };
        for statement in fill {
            self.query_target(index, statement, &[]).await?;
        }
        Ok(())
    }

    async fn recompute_groups(&mut self, index: usize, groups: Groups) -> Result<Counts, BatchError> {
        let Statements::Grouped { groups: some, all_groups, .. } = &self.sql[index] else { return Ok(Counts::default()) };
        let is_global = self.projections[index].plan.key.columns().is_empty();
        match groups {
            Groups::Some(columns) if !is_global => {
                let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
                self.merge(index, some, &bound).await
            }
            Groups::Some(_) | Groups::All => self.merge(index, all_groups, &[]).await,
        }
    }

    /// With two databases: brings the fresh rows of the bound keys (or all) into a branch's stage.
    async fn stage(&mut self, index: usize, branch: usize, bound: Option<&[&(dyn ToSql + Sync)]>) -> Result<(), BatchError> {
        let projection = &self.projections[index];
        let Some(stage) = projection.stages.as_ref().and_then(|stages| stages.get(branch)) else { return Ok(()) };
        let (query, root) = match (projection.plan.branches().get(branch), bound) {
            (Some(branch), Some(_)) => (&branch.dirty_query, Some(&branch.root)),
            (Some(branch), None) => (&branch.query, None),
            (None, _) => (&projection.plan.query, None),
        };
        let sql = stage.source_query(root.map(lockstep_plan::sql::dirty_cte).as_deref(), query);
        let source = self.sessions.source();
        let statement = self.prepared.on_source(source, &sql).await.map_err(|error| BatchError::Sql {
            side: Side::Source,
            error,
            projection: Some(index),
        })?;
        let parameters = if root.is_some() { bound.unwrap_or_default() } else { &[] };
        stage.fill(source, &statement, parameters, self.sessions.target(), index).await
    }

    async fn merge(&mut self, index: usize, merge: &Merge, bound: &[&(dyn ToSql + Sync)]) -> Result<Counts, BatchError> {
        if !self.projections[index].delete_first {
            return self.merge_statement(index, &merge.in_place, bound).await;
        }
        let removed = self.merge_statement(index, &merge.delete_first[0], bound).await?;
        let added = self.merge_statement(index, &merge.delete_first[1], bound).await?;
        Ok(removed.plus(added))
    }

    async fn merge_statement(&mut self, index: usize, sql: &str, bound: &[&(dyn ToSql + Sync)]) -> Result<Counts, BatchError> {
        let rows = self.query_target(index, sql, bound).await?;
        let Some(row) = rows.first() else { return Ok(Counts::default()) };
        let counts = Counts { added: row.get(0), changed: row.get(1), gone: row.get(2), duplicates: row.get(3) };
        if counts.added + counts.changed + counts.gone > 0 {
            self.note_written(index, row)?;
        }
        Ok(counts)
    }

    /// Notes for the projections that read this one which of its rows were written.
    fn note_written(&mut self, index: usize, row: &tokio_postgres::Row) -> Result<(), BatchError> {
        let projection = &self.projections[index];
        let key_columns = projection.plan.key.columns().len();
        let written = self.written.entry(projection.node).or_insert_with(|| DirtyKeys::Keys(KeySet::new(key_columns)));
        if !projection.plan.reports_keys {
            *written = DirtyKeys::Whole;
            return Ok(());
        }
        let unreadable = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        let arrays: Vec<Vec<&str>> =
            (0..key_columns).map(|column| row.try_get(4 + column)).collect::<Result<_, _>>().map_err(unreadable)?;
        if let DirtyKeys::Keys(keys) = written {
            let rows = arrays.first().map_or(0, Vec::len);
            let full = rows > self.options.root_keys_max
                || (0..rows).any(|n| !keys.insert(&arrays.iter().map(|array| array[n].as_bytes()).collect::<Vec<_>>()));
            if full {
                *written = DirtyKeys::Whole;
            }
        }
        Ok(())
    }

    pub(super) async fn query_target(
        &mut self,
        index: usize,
        sql: &str,
        bound: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, BatchError> {
        let sql_error = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        let target = self.sessions.target();
        let statement = self.prepared.on_target(target, sql).await.map_err(sql_error)?;
        target.query(&statement, bound).await.map_err(sql_error)
    }

    fn count_rows(&self, index: usize, counts: Counts) {
        for (operation, rows) in [("insert", counts.added), ("update", counts.changed), ("delete", counts.gone)] {
            if let Ok(rows @ 1..) = u64::try_from(rows) {
                let projection = self.projections[index].name().to_owned();
                metrics::counter!("lockstep_refresh_rows_total", "projection" => projection, "op" => operation).increment(rows);
            }
        }
    }
}

/// All keys of a set, one array for each column.
fn all_texts(keys: &KeySet) -> Vec<Vec<Option<String>>> {
    let owned = |array: Vec<&str>| array.into_iter().map(|text| Some(text.to_owned())).collect();
    keys.arrays(0..keys.len()).into_iter().map(owned).collect()
}

/// The groups that a batch touches, until there are too many to name.
#[derive(Default)]
struct Touched {
    groups: HashSet<Vec<Option<String>>>,
    too_many: bool,
}

impl Touched {
    fn add(&mut self, rows: &[tokio_postgres::Row], groups_max: usize) {
        if self.too_many {
            return;
        }
        self.groups.extend(rows.iter().map(|row| (0..row.len()).map(|column| row.get(column)).collect()));
        self.too_many = self.groups.len() > groups_max;
    }

    fn groups(self) -> Option<Groups> {
        if self.too_many {
            return Some(Groups::All);
        }
        let columns = self.groups.iter().next().map(Vec::len)?;
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(self.groups.len()); columns];
        for group in self.groups {
            for (array, value) in arrays.iter_mut().zip(group) {
                array.push(value);
            }
        }
        Some(Groups::Some(arrays))
    }
}
