//! Bringing fresh rows to the target, and writing what differs.

use lockstep_capture::{DirtyKeys, KeySet};
use lockstep_connect::TextRef;
use lockstep_plan::emit::Merge;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use crate::error::{BatchError, Side};
use crate::projection::Writing;

/// Rows written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: i64,
    pub(crate) changed: i64,
    pub(crate) gone: i64,
    pub(crate) duplicates: i64,
}

impl Counts {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            added: self.added + other.added,
            changed: self.changed + other.changed,
            gone: self.gone + other.gone,
            duplicates: self.duplicates + other.duplicates,
        }
    }

    /// Rows written.
    pub(crate) fn written(self) -> i64 {
        self.added + self.changed + self.gone
    }

    pub(crate) fn row_delta(self) -> i64 {
        self.added - self.gone
    }
}

impl BatchRun<'_> {
    /// With two databases: brings the fresh rows of the bound keys (or all) into a branch's stage.
    pub(super) async fn stage(
        &mut self,
        index: usize,
        branch: usize,
        bound: Option<&[&(dyn ToSql + Sync)]>,
    ) -> Result<(), BatchError> {
        let projection = &self.projections[index];
        let Some(stage) = projection.stages.as_ref().and_then(|stages| stages.get(branch)) else { return Ok(()) };
        let (query, root) = match (projection.plan.branches().get(branch), bound) {
            (Some(branch), Some(_)) => (&branch.dirty_query, Some(&branch.root)),
            (Some(branch), None) => (&branch.query, None),
            (None, _) => (&projection.plan.query, None),
        };
        let sql = stage.source_query(root.map(lockstep_plan::emit::dirty_cte).as_deref(), query);
        let source = self.sessions.source();
        let statement = self.prepared.on_source(source, &sql).await.map_err(|error| BatchError::Sql {
            side: Side::Source,
            error,
            projection: Some(index),
        })?;
        let parameters = if root.is_some() { bound.unwrap_or_default() } else { &[] };
        stage.fill(source, &statement, parameters, self.sessions.target(), index).await
    }

    pub(super) async fn merge(
        &mut self,
        index: usize,
        merge: &Merge,
        bound: &[&(dyn ToSql + Sync)],
    ) -> Result<Counts, BatchError> {
        if self.projections[index].writing == Writing::InPlace {
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
        if counts.written() > 0 {
            self.note_written(index, row)?;
            if self.projections[index].feeds() {
                let key = self.projections[index].plan.reports_keys.then_some(&self.projections[index].plan.key);
                let noted = self.fed.entry(index).or_default().note(counts.written(), key, row);
                noted.map_err(|error| BatchError::Sql { side: Side::Target, error, projection: Some(index) })?;
            }
        }
        Ok(counts)
    }

    /// Notes for the projections that read this one which of its rows were written.
    fn note_written(&mut self, index: usize, row: &tokio_postgres::Row) -> Result<(), BatchError> {
        let projection = &self.projections[index];
        let key_columns = projection.plan.key.identity_columns();
        let written = self.written.entry(projection.node).or_insert_with(|| DirtyKeys::Keys(KeySet::new(key_columns)));
        if !projection.plan.reports_keys {
            *written = DirtyKeys::Whole;
            return Ok(());
        }
        let unreadable = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        let arrays: Vec<Vec<TextRef<'_>>> =
            (0..key_columns).map(|column| row.try_get(4 + column)).collect::<Result<_, _>>().map_err(unreadable)?;
        if let DirtyKeys::Keys(keys) = written {
            let rows = arrays.first().map_or(0, Vec::len);
            let full = rows > self.options.root_keys_max
                || (0..rows).any(|n| !keys.insert(&arrays.iter().map(|array| array[n].0).collect::<Vec<_>>()));
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

    pub(super) fn count_rows(&self, index: usize, counts: Counts) {
        for (operation, rows) in [("insert", counts.added), ("update", counts.changed), ("delete", counts.gone)] {
            if let Ok(rows @ 1..) = u64::try_from(rows) {
                let projection = self.projections[index].name().to_owned();
                metrics::counter!("lockstep_refresh_rows_total", "projection" => projection, "op" => operation).increment(rows);
            }
        }
    }
}
