//! Writing around rows that a unique index or an exclusion constraint of the read model refuses.
//!
//! The usual batch knows nothing of such indexes: it writes, and PostgreSQL checks. The batch after one that was refused, and each while
//! keys that clash are in quarantine, brings its fresh rows into a temporary table first and asks there which of them clash, by the indexes'
//! own expressions. What is left is written; nothing is tried.

use std::collections::HashSet;

use lockstep_connect::Text;
use lockstep_plan::RowKey;
use lockstep_plan::emit::{Guard, RefusingIndex};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::isolate::{AS_USUAL, BY_INDEX_ONLY};
use super::refreshed::{Groups, Refreshed, Refusal, columns_of};
use super::write::Counts;
use crate::clash::{self, Clash, Resolution};
use crate::error::{BatchError, Side};
use crate::projection::{Statements, Writing};
use crate::quarantine::{Failure, Key, OnError, Part};

/// The indexes of a table (`$1`, quoted) that refuse rows, but for the primary key, by which rows are found. An index that is not valid yet,
/// or any more, refuses them too as long as it is kept up to date.
const INDEXES: &str = "
SELECT c.relname::text, i.indisexclusion,
       ARRAY(SELECT '(' || pg_get_indexdef(i.indexrelid, n, false) || ')' || coalesce(
                 (SELECT format(' COLLATE %I.%I', s.nspname, l.collname) FROM pg_collation AS l JOIN pg_namespace AS s ON s.oid = l.collnamespace
                  WHERE l.oid = i.indcollation[n - 1]), '')
             FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n),
       ARRAY(SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname)
             FROM generate_series(1, i.indnkeyatts) AS n
             JOIN pg_opclass AS a ON a.oid = i.indclass[n - 1]
             LEFT JOIN pg_amop AS m ON m.amopfamily = a.opcfamily AND m.amopstrategy = 3 AND k.conexclop IS NULL
                 AND m.amoplefttype = a.opcintype AND m.amoprighttype = a.opcintype
             JOIN pg_operator AS o ON o.oid = coalesce(k.conexclop[n], m.amopopr)
             JOIN pg_namespace AS s ON s.oid = o.oprnamespace ORDER BY n),
       pg_get_expr(i.indpred, i.indrelid), coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.conexclop IS NOT NULL
WHERE i.indrelid = $1::text::regclass AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary AND i.indisready
ORDER BY c.relname";

/// An index, and what PostgreSQL says when it refuses a row.
struct Refusing {
    index: RefusingIndex,
    excludes: bool,
}

impl Refusing {
    fn read(row: &Row) -> Self {
        let index = RefusingIndex {
            name: row.get(0),
            expressions: row.get(2),
            operators: row.get(3),
            predicate: row.get(4),
            nulls_clash: row.get(5),
        };
        Self { index, excludes: row.get(1) }
    }

    /// In PostgreSQL's own words.
    fn failure(&self, key: &Key, blocker: &Key) -> Failure {
        let (sqlstate, what) = if self.excludes {
            ("23P01", "conflicting key value violates exclusion constraint")
        } else {
            ("23505", "duplicate key value violates unique constraint")
        };
        let text = |value: &Option<Text>| value.as_ref().map_or_else(|| "NULL".to_owned(), Text::to_string);
        let other = blocker.iter().map(text).collect::<Vec<_>>().join(", ");
        let with = if key == blocker { "rows of the same key".to_owned() } else { format!("the row of key {other}") };
        Failure {
            sqlstate: Some(sqlstate.to_owned()),
            message: format!("{what} \"{}\": it clashes with {with}", self.index.name),
            blocker: Some(blocker.clone()),
        }
    }
}

impl<'a> BatchRun<'a> {
    /// Whether fresh rows are looked at before they are written. `None` if not, or if nothing tells the rows apart.
    fn guards(&self, index: usize) -> Option<&'a Guard> {
        let projection = &self.projections[index];
        let wanted = projection.writing == Writing::DeleteFirst || projection.quarantine.has_clashes();
        let sql: &'a [Statements] = self.sql;
        sql[index].guard().filter(|_| wanted && projection.on_error != OnError::Halt)
    }

    /// Writes the fresh rows of the bound keys, or all, but for those that clash. `None` if the ordinary way is to be taken.
    pub(super) async fn write_guarded(
        &mut self,
        index: usize,
        bound: Option<&[&(dyn ToSql + Sync)]>,
    ) -> Result<Option<Refreshed>, BatchError> {
        let Some(guard) = self.guards(index) else { return Ok(None) };
        let which = usize::from(bound.is_none());
        let parameters = bound.unwrap_or_default();
        let indexes = self.fill_stage(index, guard, which, &parameters[..guard.parameters.min(parameters.len())]).await?;
        let resolution = self.clashes(index, guard, &indexes, bound.map(|bound| &bound[..guard.parameters])).await?;
        let mut refused = Vec::with_capacity(resolution.losers.len());
        for (key, loser) in &resolution.losers {
            refused.push(Refusal { key: key.clone(), failure: indexes[loser.index].failure(key, &loser.blocker) });
        }
        self.refuse_too_many(index, refused.len(), refused.last().map(|refusal| &refusal.failure))?;
        let mut removed = Counts::default();
        if let Some(columns) = refused.first().map(|refusal| refusal.key.len()) {
            let keys = columns_of(refused.iter().map(|refusal| refusal.key.clone()), columns);
            let keys: Vec<&(dyn ToSql + Sync)> = keys.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
            self.query_target(index, &guard.take_out, &keys).await?;
            match (self.projections[index].on_error, &self.sql[index]) {
                (OnError::Keep, _) => {
                    self.query_target(index, &guard.put_back, &keys).await?;
                }
                (OnError::Remove | OnError::Halt, Statements::Row { removal, .. } | Statements::Grouped { removal, .. }) => {
                    removed = self.merge(index, removal, &keys).await?;
                }
                (OnError::Remove | OnError::Halt, Statements::Whole { .. }) => {}
            }
        }
        let before = self.projections[index].writing;
        // Where equal rows are counted, a row that changes goes and comes: it would be in its own way.
        let comes_and_goes = matches!(self.projections[index].plan.key, RowKey::Copies { .. });
        self.projections[index].writing =
            if resolution.takes_over || comes_and_goes { Writing::DeleteFirst } else { Writing::InPlace };
        let counts = self.merge(index, &guard.merge[which], parameters).await;
        self.projections[index].writing = before;
        Ok(Some(Refreshed { counts: removed.plus(counts?), groups: Vec::new(), refused }))
    }

    /// Fills the temporary table, and tells which indexes refuse rows.
    async fn fill_stage(
        &mut self,
        index: usize,
        guard: &Guard,
        which: usize,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Refusing>, BatchError> {
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        let table = lockstep_plan::quote::qualified(&self.projections[index].schema, self.projections[index].name());
        let target = self.sessions.target();
        let statement = self.prepared.on_target(target, INDEXES).await.map_err(at)?;
        let parameter: &[&(dyn ToSql + Sync)] = &[&table];
        let (prepared, rows) = tokio::join!(biased; target.batch_execute(&guard.prepare), target.query(&statement, parameter));
        prepared.map_err(at)?;
        let indexes = rows.map_err(at)?.iter().map(Refusing::read).collect();
        self.query_target(index, &guard.fill[which], parameters).await?;
        Ok(indexes)
    }

    async fn clashes(
        &mut self,
        index: usize,
        guard: &Guard,
        refusing: &[Refusing],
        bound: Option<&[&(dyn ToSql + Sync)]>,
    ) -> Result<Resolution, BatchError> {
        let indexes: Vec<RefusingIndex> = refusing.iter().map(|refusing| refusing.index.clone()).collect();
        if indexes.is_empty() {
            return Ok(Resolution::default());
        }
        // Of more pairs than that under a unique index, more keys would have to be set aside than may be.
        let keys_max = self.options.quarantined_max;
        let pairs_max = (keys_max * (keys_max + 1) / 2).saturating_add(1);
        let sql = guard.clashes(&indexes, bound.is_some(), pairs_max);
        let at = |error| BatchError::Sql { side: Side::Target, error, projection: Some(index) };
        let by_index_only = self.prepared.apart;
        if by_index_only {
            // Rows are joined with each other here, and no expression of the query is evaluated.
            self.sessions.target().batch_execute(AS_USUAL).await.map_err(at)?;
        }
        let rows = self.query_target(index, &sql, bound.unwrap_or_default()).await?;
        if by_index_only {
            self.sessions.target().batch_execute(BY_INDEX_ONLY).await.map_err(at)?;
        }
        let clash = |row: &Row| {
            let number = usize::try_from(row.get::<_, i32>(0)).unwrap_or_default();
            if row.get(1) {
                return Clash::BothFresh {
                    one: row.get(2),
                    other: row.get(3),
                    one_stands: row.get(4),
                    other_stands: row.get(5),
                    index: number,
                };
            }
            Clash::WithHeld { fresh: row.get(2), held: row.get(3), refreshed: row.get(5), index: number }
        };
        let clashes: Vec<Clash> = rows.iter().map(clash).collect();
        Ok(clash::resolve(&clashes, self.projections[index].on_error == OnError::Keep))
    }

    /// What the keys of a projection whose rows may clash are keys of.
    pub(super) fn guarded_part(&self, index: usize) -> Part {
        match &self.projections[index].plan.maintenance {
            lockstep_plan::Maintenance::Row(_) => Part::Branch(0),
            lockstep_plan::Maintenance::Grouped(_) | lockstep_plan::Maintenance::Whole(_) => Part::Groups,
        }
    }

    /// Notes that some keys were written and others refused.
    pub(super) fn settle(&mut self, index: usize, written: impl IntoIterator<Item = Key>, refused: Vec<Refusal>) {
        let part = self.guarded_part(index);
        let quarantine = &mut self.projections[index].quarantine;
        for key in written {
            quarantine.refreshed(part, key);
        }
        for refusal in refused {
            quarantine.failed(part, refusal.key, refusal.failure);
        }
    }

    /// Sets keys aside that clash; `again` if what they clashed with may have been refreshed by another statement.
    pub(super) async fn set_clashing_aside(
        &mut self,
        index: usize,
        refused: Vec<Refusal>,
        again: bool,
    ) -> Result<Counts, BatchError> {
        if again {
            return Ok(self.write_refused_again(index, refused).await?.counts);
        }
        self.settle(index, [], refused);
        Ok(Counts::default())
    }

    /// Keys that clashed in one statement, while what they clashed with was refreshed in another, are written once more together.
    pub(super) async fn write_refused_again(&mut self, index: usize, refused: Vec<Refusal>) -> Result<Refreshed, BatchError> {
        let part = self.guarded_part(index);
        let keys: Vec<Key> = refused.into_iter().map(|refusal| refusal.key).collect::<HashSet<_>>().into_iter().collect();
        let mut columns = columns_of(keys.iter().cloned(), keys.first().map_or(0, Vec::len));
        let mut done = match part {
            Part::Branch(branch) => {
                let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
                self.refresh_bound(index, branch, &bound, false).await?
            }
            Part::Groups => {
                columns.extend(self.no_roots(index, part));
                self.groups_at_once(index, &Groups::Some(columns)).await?
            }
        };
        let refused = std::mem::take(&mut done.refused);
        self.settle(index, keys, refused);
        Ok(done)
    }
}
