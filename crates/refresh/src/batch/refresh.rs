//! Refreshing one projection's part of a batch.

use std::collections::HashSet;
use std::time::Instant;

use lockstep_capture::{Batch, KeySet};
use lockstep_plan::Maintenance;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::trace::{Columns, Work, parameters};
use super::write::Counts;
use crate::error::BatchError;
use crate::projection::{Phase, Statements, Tracing};
use crate::quarantine::{Key, Part};

/// Groups to recompute.
pub(super) enum Groups {
    /// These, one array of texts for each group column; after them, where rows are found by the root's key, the roots' keys.
    Some(Columns),
    All,
}

/// What refreshing some keys did.
#[derive(Default)]
pub(super) struct Refreshed {
    pub(super) counts: Counts,
    /// The groups whose contributions changed.
    pub(super) groups: Vec<Row>,
}

impl BatchRun<'_> {
    pub(crate) async fn refresh_projection(&mut self, index: usize, batch: &Batch) -> Result<(), BatchError> {
        let tracing_began = Instant::now();
        let work = self.trace(index, batch).await?;
        self.measure_phase("trace", tracing_began);
        let (work, phase) = self.work_by_phase(index, work).await?;
        let (mut work, due_groups) = self.with_due_keys(index, work);
        let began = Instant::now();
        let repaired = if matches!(phase, Phase::Live) && self.projections[index].is_live() {
            self.repair(index, &mut work).await?
        } else {
            Counts::default()
        };
        // While an aggregate is built its groups are not kept; the batch that ends the build makes them all, once.
        let was_building = self.projections[index].is_building();
        let mut counts = match work {
            Work::Nothing => Counts::default(),
            Work::Keys(keys) => self.refresh_keys(index, &keys, due_groups, was_building).await?,
            Work::Everything => self.refresh_everything(index).await?,
        };
        if was_building && matches!(phase, Phase::Live) && matches!(self.sql[index], Statements::Grouped { .. }) {
            self.fill_accumulators(index).await?;
            counts = counts.plus(self.recompute_groups(index, Groups::All).await?);
        }
        counts = counts.plus(repaired);
        if counts.duplicates > 0 {
            return Err(BatchError::DuplicateKey { projection: index, duplicates: counts.duplicates });
        }
        self.measure_phase("merge", began);
        self.count_rows(index, counts);
        self.projections[index].written = counts.written();
        self.projections[index].stage_progress(phase, counts.row_delta());
        Ok(())
    }

    /// Adds the keys in quarantine that are due to be tried again.
    fn with_due_keys(&self, index: usize, work: Work) -> (Work, Vec<Key>) {
        let projection = &self.projections[index];
        let groups = projection.quarantine.due(Part::Groups);
        let branches = projection.plan.branches();
        let due: Vec<Vec<Key>> = (0..branches.len()).map(|branch| projection.quarantine.due(Part::Branch(branch))).collect();
        if groups.is_empty() && due.iter().all(Vec::is_empty) {
            return (work, groups);
        }
        let mut keys = match work {
            Work::Everything => return (Work::Everything, groups),
            Work::Nothing => branches.iter().map(|branch| KeySet::new(branch.root.key.len())).collect(),
            Work::Keys(keys) => keys,
        };
        for (set, due) in keys.iter_mut().zip(due) {
            for key in due {
                let fields: Vec<&[u8]> = key.iter().flatten().map(String::as_bytes).collect();
                if !set.insert(&fields) {
                    return (Work::Everything, groups);
                }
            }
        }
        (Work::Keys(keys), groups)
    }

    pub(super) async fn refresh_keys(
        &mut self,
        index: usize,
        keys: &[KeySet],
        due_groups: Vec<Key>,
        building: bool,
    ) -> Result<Counts, BatchError> {
        let mut counts = Counts::default();
        let mut touched = Touched::default();
        touched.groups.extend(due_groups);
        for (branch, keys) in keys.iter().enumerate() {
            let mut start = 0;
            while start < keys.len() {
                let end = (start + self.options.statement_keys_max).min(keys.len());
                let arrays = keys.arrays(start..end);
                let refreshed = if self.projections[index].isolates() {
                    self.isolate(index, Part::Branch(branch), rows_of(&arrays), &Vec::new(), building).await?
                } else {
                    self.refresh_bound(index, branch, &parameters(&arrays), building).await?
                };
                counts = counts.plus(refreshed.counts);
                touched.add(&refreshed.groups, self.options.groups_max);
                start = end;
            }
        }
        if building {
            return Ok(counts);
        }
        let groups = match touched.groups() {
            Some(Groups::Some(mut columns)) => {
                if self.found_by_root(index) {
                    columns.extend(keys.first().map(all_texts).unwrap_or_default());
                }
                self.recompute_groups(index, Groups::Some(columns)).await?
            }
            Some(Groups::All) => self.recompute_groups(index, Groups::All).await?,
            None => Counts::default(),
        };
        Ok(counts.plus(groups))
    }

    /// Refreshes the bound root keys of a branch: its rows, or its contributions.
    pub(super) async fn refresh_bound(
        &mut self,
        index: usize,
        branch: usize,
        bound: &[&(dyn ToSql + Sync)],
        building: bool,
    ) -> Result<Refreshed, BatchError> {
        match &self.sql[index] {
            Statements::Row { bound: merge, .. } => {
                self.stage(index, branch, Some(bound)).await?;
                Ok(Refreshed { counts: self.merge(index, merge, bound).await?, groups: Vec::new() })
            }
            Statements::Grouped { branches, .. } => {
                self.stage(index, branch, Some(bound)).await?;
                let statements = &branches[branch];
                let sql = if building { &statements.contributions } else { &statements.live_contributions };
                Ok(Refreshed { counts: Counts::default(), groups: self.query_target(index, sql, bound).await? })
            }
            Statements::Whole { .. } => Ok(Refreshed { counts: self.everything_at_once(index).await?, groups: Vec::new() }),
        }
    }

    fn found_by_root(&self, index: usize) -> bool {
        matches!(&self.projections[index].plan.maintenance, Maintenance::Grouped(grouped) if grouped.found_by_root)
    }

    pub(super) async fn refresh_everything(&mut self, index: usize) -> Result<Counts, BatchError> {
        match self.projections[index].tracing {
            Tracing::Works | Tracing::LinksMissing => self.fill_links(index).await?,
            Tracing::GivenUp => self.clear_links(index).await?,
        }
        let counts = if self.projections[index].isolates() {
            self.everything_isolating(index).await?
        } else {
            self.everything_at_once(index).await?
        };
        let projection = &mut self.projections[index];
        projection.due_after_batch = projection.due_at.map(|_| Instant::now() + self.options.schedule);
        Ok(counts)
    }

    pub(super) async fn everything_at_once(&mut self, index: usize) -> Result<Counts, BatchError> {
        match &self.sql[index] {
            Statements::Row { everything, .. } | Statements::Whole { everything } => {
                self.stage(index, 0, None).await?;
                self.merge(index, everything, &[]).await
            }
            Statements::Grouped { branches, .. } => {
                for (branch, statements) in branches.iter().enumerate() {
                    self.stage(index, branch, None).await?;
                    self.query_target(index, &statements.all_contributions, &[]).await?;
                }
                self.fill_accumulators(index).await?;
                self.groups_at_once(index, &Groups::All).await
            }
        }
    }

    /// Makes the accumulators, if there are any, from the contributions.
    pub(super) async fn fill_accumulators(&mut self, index: usize) -> Result<(), BatchError> {
        let Statements::Grouped { fill, .. } = &self.sql[index] else { return Ok(()) };
        for statement in fill {
            self.query_target(index, statement, &[]).await?;
        }
        Ok(())
    }

    pub(super) async fn recompute_groups(&mut self, index: usize, groups: Groups) -> Result<Counts, BatchError> {
        if self.projections[index].isolates() {
            self.groups_isolating(index, groups).await
        } else {
            self.groups_at_once(index, &groups).await
        }
    }

    pub(super) async fn groups_at_once(&mut self, index: usize, groups: &Groups) -> Result<Counts, BatchError> {
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
}

/// The keys of some arrays, one for each row.
fn rows_of(arrays: &[Vec<&str>]) -> Vec<Key> {
    let rows = arrays.first().map_or(0, Vec::len);
    (0..rows).map(|row| arrays.iter().map(|array| Some(array[row].to_owned())).collect()).collect()
}

/// All keys of a set, one array for each column.
fn all_texts(keys: &KeySet) -> Columns {
    let owned = |array: Vec<&str>| array.into_iter().map(|text| Some(text.to_owned())).collect();
    keys.arrays(0..keys.len()).into_iter().map(owned).collect()
}

/// The groups that a batch touches, until there are too many to name.
#[derive(Default)]
struct Touched {
    groups: HashSet<Key>,
    too_many: bool,
}

impl Touched {
    fn add(&mut self, rows: &[Row], groups_max: usize) {
        if self.too_many {
            return;
        }
        self.groups.extend(rows.iter().map(|row| (0..row.len()).map(|column| row.get(column)).collect::<Key>()));
        self.too_many = self.groups.len() > groups_max;
    }

    fn groups(self) -> Option<Groups> {
        if self.too_many {
            return Some(Groups::All);
        }
        let columns = self.groups.iter().next().map(Vec::len)?;
        Some(Groups::Some(super::isolate::columns_of(self.groups, columns)))
    }
}
