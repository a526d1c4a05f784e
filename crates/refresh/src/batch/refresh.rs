//! Refreshing one projection's part of a batch.

use std::collections::HashSet;
use std::time::Instant;

use lockstep_capture::{Batch, KeySet};
use lockstep_connect::{Text, TextRef};
use lockstep_plan::Maintenance;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::refreshed::{Groups, Refreshed, Refusal, columns_of, keys_of};
use super::trace::{Columns, Work, parameters};
use super::write::Counts;
use crate::error::BatchError;
use crate::projection::{Phase, Statements, Tracing};
use crate::quarantine::{Key, Part};

impl BatchRun<'_> {
    pub(crate) async fn refresh_projection(&mut self, index: usize, batch: &Batch) -> Result<(), BatchError> {
        let tracing_began = Instant::now();
        (self.page_keys, self.recounts) = (0, false);
        self.plan_for(index, if self.projections[index].is_building() { usize::MAX } else { batch.keys() }).await?;
        let work = self.trace(index, batch).await?;
        self.measure_phase("trace", tracing_began);
        let (work, phase) = self.work_by_phase(index, work).await?;
        let (mut work, due_groups) = self.with_due_keys(index, work);
        let began = Instant::now();
        let loaded = match self.projections[index].load.take() {
            Some(load) => self.load_pages(index, &load).await?,
            None => Counts::default(),
        };
        self.page_time += began.elapsed();
        let repaired = if matches!(phase, Phase::Live) && self.projections[index].is_live() {
            self.repair(index, &mut work).await?
        } else {
            Counts::default()
        };
        // While an aggregate is built its groups are not kept; the batch that ends the build makes them all, once.
        let was_building = self.projections[index].is_building();
        let mut counts = match work {
            Work::Nothing => Counts::default(),
            Work::Keys(keys) => {
                let (page_keys, all_keys) = (self.page_keys, keys.iter().map(KeySet::len).sum::<usize>());
                let (began, counts) = (Instant::now(), self.refresh_keys(index, &keys, due_groups, was_building).await?);
                #[expect(clippy::cast_precision_loss, reason = "a share")]
                let share = page_keys as f64 / all_keys.max(1) as f64;
                self.page_time += began.elapsed().mul_f64(share.min(1.0));
                counts
            }
            Work::Everything => self.refresh_everything(index).await?,
        };
        if was_building && matches!(phase, Phase::Live) && matches!(self.sql[index], Statements::Grouped { .. }) {
            self.fill_accumulators(index).await?;
            counts = counts.plus(self.recompute_groups(index, Groups::All).await?);
        }
        counts = counts.plus(repaired).plus(loaded);
        if counts.duplicates > 0 {
            return Err(BatchError::DuplicateKey { projection: index, duplicates: counts.duplicates });
        }
        self.measure_phase("merge", began);
        self.count_rows(index, counts);
        self.projections[index].written = counts.written();
        let mut row_delta = counts.row_delta();
        if self.recounts {
            row_delta = self.rows_of_table(index).await? - self.projections[index].rows_at_batch_start;
        }
        self.projections[index].stage_progress(phase, row_delta);
        Ok(())
    }

    async fn rows_of_table(&mut self, index: usize) -> Result<i64, BatchError> {
        let projection = &self.projections[index];
        let table = lockstep_plan::quote::qualified(&projection.schema, projection.name());
        let counted = self.query_target(index, &format!("SELECT count(*) FROM {table}"), &[]).await?;
        Ok(counted.first().map_or(0, |row| row.get(0)))
    }

    /// Adds the keys in quarantine that are due to be tried again, and those that clash with rows that are refreshed.
    fn with_due_keys(&self, index: usize, work: Work) -> (Work, Vec<Key>) {
        let projection = &self.projections[index];
        let groups = projection.quarantine.due(Part::Groups);
        if matches!(projection.plan.maintenance, Maintenance::Whole(_)) && !groups.is_empty() {
            return (Work::Everything, Vec::new());
        }
        let branches = projection.plan.branches();
        let due: Vec<Vec<Key>> = (0..branches.len()).map(|branch| projection.quarantine.due(Part::Branch(branch))).collect();
        let clashing = projection.quarantine.has_clashes();
        if groups.is_empty() && due.iter().all(Vec::is_empty) && !clashing {
            return (work, groups);
        }
        let mut keys = match work {
            Work::Everything => return (Work::Everything, groups),
            Work::Nothing => branches.iter().map(|branch| KeySet::new(branch.root.key.len())).collect(),
            Work::Keys(keys) => keys,
        };
        for (branch, (set, mut due)) in keys.iter_mut().zip(due).enumerate() {
            if clashing {
                let refreshed: HashSet<Key> = rows_of(&set.arrays(0..set.len())).into_iter().chain(due.iter().cloned()).collect();
                due.extend(projection.quarantine.freed_by(Part::Branch(branch), &refreshed));
            }
            for key in due {
                let fields: Vec<&[u8]> = key.iter().flatten().map(Text::as_bytes).collect();
                if !set.insert(&fields) {
                    return (Work::Everything, groups);
                }
            }
        }
        if groups.is_empty() && keys.iter().all(KeySet::is_empty) {
            return (Work::Nothing, groups);
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
        let mut refused = Vec::new();
        let mut touched = Touched::default();
        touched.groups.extend(due_groups);
        for (branch, keys) in keys.iter().enumerate() {
            let mut start = 0;
            while start < keys.len() {
                let end = (start + self.options.statement_keys_max).min(keys.len());
                self.plan_for(index, if building { usize::MAX } else { end - start }).await?;
                let arrays = keys.arrays(start..end);
                let mut refreshed = if self.projections[index].isolates() {
                    self.isolate(index, Part::Branch(branch), rows_of(&arrays), &Vec::new(), building).await?
                } else {
                    self.refresh_bound(index, branch, &parameters(&arrays), building).await?
                };
                counts = counts.plus(refreshed.counts);
                touched.add(&refreshed.groups, self.options.groups_max);
                self.note_good(index, Part::Branch(branch), &arrays, &refreshed.refused);
                refused.append(&mut refreshed.refused);
                start = end;
            }
            if !refused.is_empty() {
                let several = keys.len() > self.options.statement_keys_max;
                counts = counts.plus(self.set_clashing_aside(index, std::mem::take(&mut refused), several).await?);
            }
        }
        if building {
            return Ok(counts);
        }
        if self.projections[index].quarantine.has_clashes() {
            touched.groups.extend(self.projections[index].quarantine.freed_by(Part::Groups, &touched.groups));
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
                match self.write_guarded(index, Some(bound)).await? {
                    Some(written) => Ok(written),
                    None => Ok(Refreshed::counted(self.merge(index, merge, bound).await?)),
                }
            }
            Statements::Grouped { branches, .. } => {
                self.stage(index, branch, Some(bound)).await?;
                let statements = &branches[branch];
                let sql = if building { &statements.contributions } else { &statements.live_contributions };
                Ok(Refreshed { groups: self.query_target(index, sql, bound).await?, ..Refreshed::default() })
            }
            Statements::Whole { .. } => self.everything_at_once(index).await,
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
            let done = self.everything_at_once(index).await?;
            // Nothing else was in quarantine.
            self.projections[index].forget_quarantine();
            self.settle(index, [], done.refused);
            done.counts
        };
        let projection = &mut self.projections[index];
        projection.due_after_batch = projection.due_at.map(|_| Instant::now() + self.options.schedule);
        Ok(counts)
    }

    pub(super) async fn everything_at_once(&mut self, index: usize) -> Result<Refreshed, BatchError> {
        match &self.sql[index] {
            Statements::Row { everything, .. } | Statements::Whole { everything, .. } => {
                self.stage(index, 0, None).await?;
                match self.write_guarded(index, None).await? {
                    Some(written) => Ok(written),
                    None => Ok(Refreshed::counted(self.merge(index, everything, &[]).await?)),
                }
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
        if let Groups::Some(columns) = &groups {
            self.plan_for(index, columns.first().map_or(0, Vec::len)).await?;
        }
        if self.projections[index].isolates() {
            return self.groups_isolating(index, groups).await;
        }
        let done = self.groups_at_once(index, &groups).await?;
        self.note_good_groups(index, &groups);
        self.settle(index, [], done.refused);
        Ok(done.counts)
    }

    /// Notes that groups were refreshed, all that were asked for.
    pub(super) fn note_good_groups(&mut self, index: usize, groups: &Groups) {
        let group_columns = match &self.projections[index].plan.maintenance {
            Maintenance::Grouped(grouped) => grouped.group_columns.len(),
            Maintenance::Row(_) | Maintenance::Whole(_) => 0,
        };
        let quarantine = &mut self.projections[index].quarantine;
        match groups {
            Groups::Some(columns) if group_columns > 0 && !quarantine.is_empty() => {
                for key in keys_of(&columns[..group_columns.min(columns.len())]) {
                    quarantine.refreshed(Part::Groups, key);
                }
            }
            Groups::Some(_) if group_columns > 0 => {}
            Groups::Some(_) | Groups::All => quarantine.all_refreshed(Part::Groups),
        }
    }

    /// Notes that keys of a part were refreshed, but for those that were refused.
    fn note_good(&mut self, index: usize, part: Part, arrays: &[Vec<TextRef<'_>>], refused: &[Refusal]) {
        // Telling them apart has noted it.
        if self.projections[index].isolates() || self.projections[index].quarantine.is_empty() {
            return;
        }
        let refused: HashSet<&Key> = refused.iter().map(|refusal| &refusal.key).collect();
        for key in rows_of(arrays).into_iter().filter(|key| !refused.contains(key)) {
            self.projections[index].quarantine.refreshed(part, key);
        }
    }

    pub(super) async fn groups_at_once(&mut self, index: usize, groups: &Groups) -> Result<Refreshed, BatchError> {
        let Statements::Grouped { groups: some, all_groups, .. } = &self.sql[index] else { return Ok(Refreshed::default()) };
        let is_global = self.projections[index].plan.key.columns().is_empty();
        match groups {
            Groups::Some(columns) if !is_global => {
                let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
                match self.write_guarded(index, Some(&bound)).await? {
                    Some(written) => Ok(written),
                    None => Ok(Refreshed::counted(self.merge(index, some, &bound).await?)),
                }
            }
            Groups::Some(_) | Groups::All => match self.write_guarded(index, None).await? {
                Some(written) => Ok(written),
                None => Ok(Refreshed::counted(self.merge(index, all_groups, &[]).await?)),
            },
        }
    }
}

/// The keys of some arrays, one for each row.
fn rows_of(arrays: &[Vec<TextRef<'_>>]) -> Vec<Key> {
    let rows = arrays.first().map_or(0, Vec::len);
    (0..rows).map(|row| arrays.iter().map(|array| Some(array[row].into())).collect()).collect()
}

/// All keys of a set, one array for each column.
fn all_texts(keys: &KeySet) -> Columns {
    let owned = |array: Vec<TextRef<'_>>| array.into_iter().map(|text| Some(text.into())).collect();
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
        Some(Groups::Some(columns_of(self.groups, columns)))
    }
}
