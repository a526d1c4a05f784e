//! Refreshing rows that were found to differ: the ordinary way, and counted.

use std::collections::HashSet;

use lockstep_capture::{DirtyKeys, KeySet};
use lockstep_connect::Text;
use lockstep_plan::emit;
use lockstep_plan::emit::Places;
use lockstep_plan::{Maintenance, Trace};
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::refreshed::{Groups, columns_of};
use super::trace::{RoleAt, Work};
use super::write::Counts;
use crate::error::BatchError;
use crate::projection::Statements;
use crate::quarantine::Key;
use crate::suspects::Suspects;

impl BatchRun<'_> {
    /// Refreshes a projection's suspects. What the batch's own changes concern is left to them, so that what is counted here is drift: a
    /// row that was wrong although no change explains it.
    pub(super) async fn repair(&mut self, index: usize, work: &mut Work) -> Result<Counts, BatchError> {
        let Some(repair) = &self.projections[index].repair else { return Ok(Counts::default()) };
        let suspects = repair.suspects.clone();
        let counts = match work {
            // All of it is refreshed anyway, and nobody can tell why a row changes.
            Work::Everything => Counts::default(),
            Work::Nothing | Work::Keys(_) if suspects.everything => {
                let counts = self.refresh_everything(index).await?;
                *work = Work::Nothing;
                counts
            }
            Work::Nothing | Work::Keys(_) => self.repair_suspects(index, suspects, work).await?,
        };
        self.count_anew(index, counts).await?;
        self.projections[index].repaired = Some(counts.written());
        Ok(counts)
    }

    async fn repair_suspects(&mut self, index: usize, suspects: Suspects, work: &mut Work) -> Result<Counts, BatchError> {
        let branches = self.projections[index].plan.branches().to_vec();
        let mut roots: Vec<KeySet> = branches.iter().map(|branch| KeySet::new(branch.root.key.len())).collect();
        if self.repair_links(index, suspects.links, &mut roots).await?.is_none() {
            return self.refresh_everything(index).await;
        }
        for (branch, key) in suspects.roots {
            let fields: Vec<&[u8]> = key.iter().flatten().map(Text::as_bytes).collect();
            if !roots.get_mut(branch).is_some_and(|set| set.insert(&fields)) {
                return self.refresh_everything(index).await;
            }
        }
        if let Work::Keys(traced) = work {
            for (roots, traced) in roots.iter_mut().zip(traced.iter()) {
                *roots = without(roots, traced);
            }
        }
        let has_accumulators = matches!(&self.sql[index], Statements::Grouped { fill, .. } if !fill.is_empty());
        let contributions = roots.iter().any(|set| !set.is_empty());
        if suspects.accumulators || (has_accumulators && contributions) {
            // A wrong contribution says nothing about what the accumulators hold of it: they are made anew.
            let counts = self.refresh_keys(index, &roots, Vec::new(), true).await?;
            self.fill_accumulators(index).await?;
            return Ok(counts.plus(self.recompute_groups(index, Groups::All).await?));
        }
        let gone = self.remove_duplicates(index, &suspects.groups).await?;
        let counts = self.refresh_keys(index, &roots, suspects.groups, false).await?;
        let counts = Counts { gone: counts.gone + gone, ..counts };
        if suspects.all_groups {
            return Ok(counts.plus(self.recompute_groups(index, Groups::All).await?));
        }
        Ok(counts)
    }

    /// Removes rows beyond one for each suspect group. Returns how many.
    async fn remove_duplicates(&mut self, index: usize, groups: &[Key]) -> Result<i64, BatchError> {
        let projection = &self.projections[index];
        let places = Places { schema: projection.schema.clone(), state_schema: "lockstep".to_owned() };
        let statement = match &projection.plan.maintenance {
            Maintenance::Grouped(grouped) => emit::group_duplicates(&projection.plan, grouped, &places),
            Maintenance::Row(_) | Maintenance::Whole(_) => None,
        };
        let (Some(statement), Some(first)) = (statement, groups.first()) else { return Ok(0) };
        let columns = columns_of(groups.iter().cloned(), first.len());
        let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        let rows = self.query_target(index, &statement, &bound).await?;
        let gone = rows.first().map_or(0, |row| row.get(0));
        if gone > 0 && self.projections[index].plan.reports_keys {
            self.written.insert(self.projections[index].node, DirtyKeys::Whole);
        }
        if gone > 0 && self.projections[index].feeds() {
            self.fed.entry(index).or_default().note_unnamed(gone);
        }
        Ok(gone)
    }

    /// The number of rows is counted anew: who writes by hand does not keep it.
    async fn count_anew(&mut self, index: usize, repaired: Counts) -> Result<(), BatchError> {
        let projection = &self.projections[index];
        let table = lockstep_plan::quote::qualified(&projection.schema, projection.name());
        let rows = self.query_target(index, &format!("SELECT count(*) FROM {table}"), &[]).await?;
        if let Some(row) = rows.first() {
            self.projections[index].rows_at_batch_start = row.get::<_, i64>(0) - repaired.row_delta();
        }
        Ok(())
    }

    /// Brings links up to date for suspect rows of their relations, and adds the roots that the old and the new values concern. `None` if
    /// they cannot be named.
    async fn repair_links(
        &mut self,
        index: usize,
        links: Vec<(usize, usize, Key)>,
        roots: &mut [KeySet],
    ) -> Result<Option<()>, BatchError> {
        let mut by_role: Vec<((usize, usize), KeySet)> = Vec::new();
        for (branch, role, key) in links {
            let fields: Vec<&[u8]> = key.iter().flatten().map(Text::as_bytes).collect();
            let position = by_role.iter().position(|(found, _)| *found == (branch, role)).unwrap_or_else(|| {
                by_role.push(((branch, role), KeySet::new(fields.len())));
                by_role.len() - 1
            });
            if !by_role[position].1.insert(&fields) {
                return Ok(None);
            }
        }
        for ((branch, role), keys) in by_role {
            let is_link = self.projections[index].plan.branches().get(branch).and_then(|branch| branch.roles.get(role));
            let (Some(Trace::Link(_)), Some(roots)) = (is_link.map(|role| &role.trace), roots.get_mut(branch)) else { continue };
            if !self.link_traced(index, RoleAt { branch, role }, &keys, roots).await? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }
}

/// The keys of one set that another lacks.
fn without(keys: &KeySet, others: &KeySet) -> KeySet {
    let known: HashSet<Vec<&[u8]>> = (0..others.len()).map(|n| others.fields(n)).collect();
    let mut left = KeySet::new(keys.columns());
    for n in 0..keys.len() {
        let fields = keys.fields(n);
        // It fits: the set that it comes from is larger.
        if !known.contains(&fields) && !left.insert(&fields) {
            break;
        }
    }
    left
}
