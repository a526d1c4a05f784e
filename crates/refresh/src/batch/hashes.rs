//! Dirty rows of tables without a key become dirty keys: the hashes of what they hold.
//!
//! The stream delivers whole rows as texts, which lie in the dirty set as literals of the table's row type. Only PostgreSQL can hash them,
//! so one statement on the source does, once in a batch for each table.

use lockstep_capture::{DirtyKeys, KeySet};
use lockstep_connect::TextRef;
use lockstep_plan::emit;
use lockstep_plan::facts::Relation;

use super::BatchRun;
use super::trace::parameters;
use crate::error::{BatchError, Side};

/// Bytes of literals that are bound to one statement; a single one may be longer.
const LITERALS_BYTES_MAX: usize = 16 << 20;

impl BatchRun<'_> {
    /// The hashes of dirty rows. Where PostgreSQL cannot read one, because the table had another form when it was written, the relation is
    /// dirty as a whole.
    pub(super) async fn hashes(&mut self, index: usize, relation: &Relation, rows: &KeySet) -> Result<DirtyKeys, BatchError> {
        if let Some(known) = self.hashed.get(&relation.oid) {
            return Ok(known.clone());
        }
        let sql = emit::hashes(relation);
        let mut keys = KeySet::new(1);
        let mut start = 0;
        let mut found = DirtyKeys::Whole;
        while start < rows.len() {
            let end = self.end_of_page(rows, start);
            if !self.hash_page(index, &sql, rows, start..end, &mut keys).await? {
                break;
            }
            start = end;
        }
        if start >= rows.len() {
            found = DirtyKeys::Keys(keys);
        }
        self.hashed.insert(relation.oid, found.clone());
        Ok(found)
    }

    fn end_of_page(&self, rows: &KeySet, start: usize) -> usize {
        let mut bytes = 0;
        let last = (start + self.options.statement_keys_max).min(rows.len());
        (start + 1..last)
            .find(|&end| {
                bytes += rows.fields(end - 1).iter().map(|field| field.len()).sum::<usize>();
                bytes > LITERALS_BYTES_MAX
            })
            .unwrap_or(last)
    }

    /// Adds the hashes of some rows; false if they cannot be read.
    async fn hash_page(
        &mut self,
        index: usize,
        sql: &str,
        rows: &KeySet,
        page: std::ops::Range<usize>,
        keys: &mut KeySet,
    ) -> Result<bool, BatchError> {
        let sql_error = |error| BatchError::Sql { side: Side::Source, error, projection: Some(index) };
        let source = self.sessions.source();
        let arrays = rows.arrays(page);
        source.batch_execute("SAVEPOINT lockstep_hashes").await.map_err(sql_error)?;
        // Prepared each time: PostgreSQL does not plan a statement again when a row type in it has changed.
        match source.query(sql, &parameters(&arrays)).await {
            Ok(hashes) => {
                source.batch_execute("RELEASE SAVEPOINT lockstep_hashes").await.map_err(sql_error)?;
                Ok(hashes.iter().all(|row| keys.insert(&[row.get::<_, TextRef<'_>>(0).0])))
            }
            // Data, constraints of domains, names: nothing that would cure itself.
            Err(error) if error.code().is_some_and(|code| ["22", "23", "42"].contains(&&code.code()[..2])) => {
                source.batch_execute("ROLLBACK TO SAVEPOINT lockstep_hashes").await.map_err(sql_error)?;
                tracing::debug!(error = %lockstep_connect::describe(&error), "dirty rows cannot be read");
                Ok(false)
            }
            Err(error) => Err(sql_error(error)),
        }
    }
}
