//! From a batch's dirty keys to one projection's work.

use lockstep_capture::{Batch, DirtyKeys, KeySet};
use lockstep_plan::Role;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use crate::error::{BatchError, Side};

/// What a projection has to do in a batch.
pub(crate) enum Work {
    Nothing,
    /// Refresh these root keys.
    Keys(KeySet),
    /// Refresh all rows.
    Everything,
}

/// Binds text arrays.
pub(crate) fn parameters<'a>(arrays: &'a [Vec<&'a str>]) -> Vec<&'a (dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}

impl BatchRun<'_> {
    /// Traces the batch's dirty keys to the projection's root keys.
    pub(crate) async fn trace(&mut self, index: usize, batch: &Batch) -> Result<Work, BatchError> {
        let plan = &self.projections[index].plan;
        let touched = plan.relations.iter().any(|relation| batch.relations.contains_key(&relation.relation.oid));
        let Some(root) = plan.root().filter(|_| touched) else {
            return Ok(if touched { Work::Everything } else { Work::Nothing });
        };
        let mut roots = KeySet::new(root.key.len());
        let mut traces: Vec<(String, &KeySet)> = Vec::new();
        for relation in &plan.relations {
            let Some(dirty) = batch.relations.get(&relation.relation.oid) else { continue };
            let DirtyKeys::Keys(keys) = dirty else { return Ok(Work::Everything) };
            for role in &relation.roles {
                match (role.role, &role.trace) {
                    (Role::Root, _) => {
                        if !roots.extend(keys) {
                            return Ok(Work::Everything);
                        }
                    }
                    (Role::Lookup, Some(trace)) => traces.push((trace.clone(), keys)),
                    (Role::Lookup, None) | (Role::Whole, _) => return Ok(Work::Everything),
                }
            }
        }
        if !traces.is_empty() && self.projections[index].skip_traces {
            return Ok(Work::Everything);
        }
        for (trace, keys) in traces {
            if !self.run_trace(index, &trace, keys, &mut roots).await? {
                return Ok(Work::Everything);
            }
        }
        Ok(if roots.is_empty() { Work::Nothing } else { Work::Keys(roots) })
    }

    /// Adds the root keys of a lookup's dirty keys; false if there are too many to name.
    async fn run_trace(&mut self, index: usize, trace: &str, keys: &KeySet, roots: &mut KeySet) -> Result<bool, BatchError> {
        let sql_error = |error: tokio_postgres::Error| match error.code() {
            Some(code) if code.code().starts_with("22") => BatchError::Trace { error, projection: index },
            Some(_) | None => BatchError::Sql { side: Side::Source, error, projection: Some(index) },
        };
        let source = self.sessions.source();
        let bounded = format!("{trace}\nLIMIT {}", self.options.root_keys_max + 1);
        let statement = self.prepared.on_source(source, &bounded).await.map_err(sql_error)?;
        let mut start = 0;
        while start < keys.len() {
            let end = (start + self.options.statement_keys_max).min(keys.len());
            let arrays = keys.arrays(start..end);
            let rows = source.query(&statement, &parameters(&arrays)).await.map_err(sql_error)?;
            for row in rows {
                let fields: Vec<&str> = (0..row.len()).map(|column| row.get(column)).collect();
                let bytes: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
                if !roots.insert(&bytes) {
                    return Ok(false);
                }
            }
            if roots.len() > self.options.root_keys_max {
                return Ok(false);
            }
            start = end;
        }
        Ok(true)
    }
}
