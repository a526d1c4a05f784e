//! Refreshing one projection's part of a batch.

use std::collections::HashSet;
use std::time::Instant;

use lockstep_capture::{Batch, KeySet};
use lockstep_plan::sql::{Merge, next_root_keys};
use lockstep_plan::{Maintenance, Root, quote};
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::trace::{Work, parameters};
use crate::error::{BatchError, Side};
use crate::projection::{Phase, Statements};

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
        if was_building && matches!(phase, Phase::Live) && matches!(self.sql[index], Statements::Aggregate { .. }) {
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
                let due = projection.is_due();
                Ok((if due { Work::Everything } else { work }, Phase::Live))
            }
            // Whatever was missed while it was set aside is made good by refreshing everything.
            Phase::Faulted { was_built: true, .. } => Ok((Work::Everything, Phase::Live)),
            Phase::Faulted { was_built: false, .. } => {
                self.clear(index).await?;
                Ok((Work::Nothing, Phase::Building { position: None, exhausted: false }))
            }
            Phase::Building { exhausted: true, .. } => {
                let finish = match &projection.plan.maintenance {
                    Maintenance::Row(_) | Maintenance::Aggregate(_) => work,
                    Maintenance::Whole(_) => Work::Everything,
                };
                Ok((finish, Phase::Live))
            }
            Phase::Building { position, exhausted: false } => {
                let position = position.clone();
                match projection.plan.root().cloned() {
                    None => Ok((Work::Nothing, Phase::Building { position: None, exhausted: true })),
                    Some(root) => self.build_page(index, &root, position, work).await,
                }
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
        root: &Root,
        position: Option<Vec<String>>,
        work: Work,
    ) -> Result<(Work, Phase), BatchError> {
        let sql_error = |error| BatchError::Sql { side: Side::Source, error, projection: Some(index) };
        fail::fail_point!("build_page", |_| std::process::abort());
        let mut keys = match work {
            Work::Nothing => KeySet::new(root.key.len()),
            Work::Keys(keys) => keys,
            // A relation was truncated or rewritten: do all of it in this batch, and be done.
            Work::Everything => return Ok((Work::Everything, Phase::Building { position, exhausted: true })),
        };
        let source = self.sessions.source();
        let sql = next_root_keys(root, position.is_none(), self.page_rows);
        let statement = self.prepared.on_source(source, &sql).await.map_err(sql_error)?;
        let bounds: Vec<&(dyn ToSql + Sync)> = position.iter().flatten().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = source.query(&statement, &bounds).await.map_err(sql_error)?;
        let mut last = position;
        for row in &rows {
            let fields: Vec<&str> = (0..row.len()).map(|column| row.get(column)).collect();
            let bytes: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
            if !keys.insert(&bytes) {
                return Ok((Work::Everything, Phase::Building { position: last, exhausted: true }));
            }
        }
        if let Some(row) = rows.last() {
            last = Some((0..row.len()).map(|column| row.get(column)).collect());
        }
        self.projections[index].built_roots += rows.len() as u64;
        let work = if keys.is_empty() { Work::Nothing } else { Work::Keys(keys) };
        Ok((work, Phase::Building { position: last, exhausted: rows.len() < self.page_rows }))
    }

    async fn refresh_keys(&mut self, index: usize, keys: &KeySet, building: bool) -> Result<Counts, BatchError> {
        let mut counts = Counts::default();
        let mut touched: HashSet<Vec<Option<String>>> = HashSet::new();
        let mut too_many = false;
        let mut start = 0;
        while start < keys.len() {
            let end = (start + self.options.statement_keys_max).min(keys.len());
            let arrays = keys.arrays(start..end);
            let bound = parameters(&arrays);
            match &self.sql[index] {
                Statements::Row { bound: merge, .. } => {
                    self.stage(index, Some(&bound)).await?;
                    counts = counts.plus(self.merge(index, merge, &bound).await?);
                }
                Statements::Aggregate { contributions, .. } => {
                    self.stage(index, Some(&bound)).await?;
                    let rows = self.query_target(index, contributions, &bound).await?;
                    if !building && !too_many {
                        touched.extend(rows.iter().map(|row| (0..row.len()).map(|column| row.get(column)).collect()));
                        too_many = touched.len() > self.options.groups_max;
                    }
                }
                Statements::Whole { .. } => return self.refresh_everything(index).await,
            }
            start = end;
        }
        if matches!(self.sql[index], Statements::Aggregate { .. }) && !building && (too_many || !touched.is_empty()) {
            let groups = if too_many { Groups::All } else { Groups::Some(columns_of(touched)) };
            counts = self.recompute_groups(index, groups).await?;
        }
        Ok(counts)
    }

    async fn refresh_everything(&mut self, index: usize) -> Result<Counts, BatchError> {
        self.stage(index, None).await?;
        match &self.sql[index] {
            Statements::Row { everything, .. } | Statements::Whole { everything } => {
                let counts = self.merge(index, everything, &[]).await?;
                let projection = &mut self.projections[index];
                projection.due_after_batch = projection.due_at.map(|_| Instant::now() + self.options.schedule);
                Ok(counts)
            }
            Statements::Aggregate { all_contributions, .. } => {
                self.query_target(index, all_contributions, &[]).await?;
                self.recompute_groups(index, Groups::All).await
            }
        }
    }

    async fn recompute_groups(&mut self, index: usize, groups: Groups) -> Result<Counts, BatchError> {
        let Statements::Aggregate { groups: some, all_groups, .. } = &self.sql[index] else { return Ok(Counts::default()) };
        let is_global = self.projections[index].plan.key.columns().is_empty();
        match groups {
            Groups::Some(columns) if !is_global => {
                let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
                self.merge(index, some, &bound).await
            }
            Groups::Some(_) | Groups::All => self.merge(index, all_groups, &[]).await,
        }
    }

    /// With two databases: brings the fresh rows of the bound keys (or all) into the projection's stage.
    async fn stage(&mut self, index: usize, bound: Option<&[&(dyn ToSql + Sync)]>) -> Result<(), BatchError> {
        let projection = &self.projections[index];
        let Some(stage) = &projection.stage else { return Ok(()) };
        let (query, root) = match (&projection.plan.maintenance, bound) {
            (Maintenance::Row(row), Some(_)) => (&row.dirty_row_query, Some(&row.root)),
            (Maintenance::Row(row), None) => (&row.row_query, None),
            (Maintenance::Aggregate(aggregate), Some(_)) => (&aggregate.dirty_contribution_query, Some(&aggregate.root)),
            (Maintenance::Aggregate(aggregate), None) => (&aggregate.contribution_query, None),
            (Maintenance::Whole(_), _) => (&projection.plan.query, None),
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
        Ok(rows.first().map_or(Counts::default(), |row| Counts {
            added: row.get(0),
            changed: row.get(1),
            gone: row.get(2),
            duplicates: row.get(3),
        }))
    }

    async fn query_target(
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

/// Rows of texts turned into one array for each column.
fn columns_of(rows: HashSet<Vec<Option<String>>>) -> Vec<Vec<Option<String>>> {
    let mut columns: Vec<Vec<Option<String>>> = Vec::new();
    for row in rows {
        columns.resize_with(row.len(), Vec::new);
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    columns
}
