//! Finding the keys that fail, so that they alone are set aside: halves are tried until the keys that fail stand alone.
//!
//! Each attempt has a savepoint on both sides, which costs two round trips. So it is done only in the batch after one that failed on
//! some row's data, and as long as keys are in quarantine.

use lockstep_connect::is_about_encoding;
use lockstep_plan::{Maintenance, emit};
use tokio_postgres::types::ToSql;

use super::BatchRun;
use super::refreshed::{Groups, Refreshed, columns_of, key_of_row, keys_of};
use super::trace::Columns;
use super::write::Counts;
use crate::error::{BatchError, Side};
use crate::projection::{Statements, Writing};
use crate::quarantine::{Failure, Key, OnError, Part, is_about_data, is_clash};
use crate::transfer::Stage;

/// A plan that reads a table as a whole may evaluate a condition for rows that are not asked for, and one that fails among them would make
/// all others fail. So rows are only looked up.
pub(super) const BY_INDEX_ONLY: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

const ATTEMPT: &str = "SAVEPOINT lockstep_attempt";

pub(super) const AS_USUAL: &str = "SET LOCAL enable_seqscan TO DEFAULT; SET LOCAL enable_hashjoin TO DEFAULT; \
     SET LOCAL enable_mergejoin TO DEFAULT";

/// Why an attempt failed, and whether an index refused a row.
struct Failed {
    failure: Failure,
    clash: bool,
}

impl Failed {
    fn is_about_encoding(&self) -> bool {
        self.failure.sqlstate.as_deref().is_some_and(is_about_encoding)
    }
}

impl BatchRun<'_> {
    /// Refreshes keys of a part; those that fail go to quarantine. `roots` are bound after groups, where rows are found by them.
    pub(super) async fn isolate(
        &mut self,
        index: usize,
        part: Part,
        keys: Vec<Key>,
        roots: &Columns,
        building: bool,
    ) -> Result<Refreshed, BatchError> {
        // Those that failed before fail again, mostly: they are tried apart.
        let quarantine = &self.projections[index].quarantine;
        let (known, mut ordered): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(|key| quarantine.contains(part, key));
        let split = ordered.len();
        ordered.extend(known);
        let mut waiting = vec![split..ordered.len(), 0..split];
        let mut done = Refreshed::default();
        let mut failed: Vec<(Key, Failed)> = Vec::new();
        let mut refused = Vec::new();
        let mut attempts = 0;
        while let Some(range) = waiting.pop() {
            if range.is_empty() {
                continue;
            }
            let keys = &ordered[range.clone()];
            attempts += 1;
            match self.attempt(index, part, keys, roots, building).await? {
                Ok(mut refreshed) => {
                    refused.append(&mut refreshed.refused);
                    done.add(refreshed);
                    for key in keys {
                        self.projections[index].quarantine.refreshed(part, key.clone());
                    }
                }
                // Those that clash are told apart without being tried.
                Err(error) if error.clash && self.projections[index].writing == Writing::InPlace => {
                    self.projections[index].writing = Writing::DeleteFirst;
                    waiting.push(range);
                }
                Err(error) if range.len() == 1 => {
                    let key = keys[0].clone();
                    if error.is_about_encoding() && self.is_nowhere(index, part, &key).await? {
                        self.projections[index].quarantine.refreshed(part, key);
                    } else {
                        failed.push((key, error));
                    }
                }
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    waiting.push(middle..range.end);
                    waiting.push(range.start..middle);
                }
            }
            self.refuse_too_many(index, failed.len(), failed.last().map(|(_, failed)| &failed.failure))?;
        }
        // Rows that clash only with each other clash alone and not together.
        let (clashing, mut failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(_, failed)| failed.clash);
        let keys: Vec<Key> = clashing.iter().map(|(key, _)| key.clone()).collect();
        match if keys.len() > 1 { Some(self.attempt(index, part, &keys, roots, building).await?) } else { None } {
            Some(Ok(mut refreshed)) => {
                refused.append(&mut refreshed.refused);
                done.add(refreshed);
                for key in keys {
                    self.projections[index].quarantine.refreshed(part, key);
                }
            }
            Some(Err(_)) | None => failed.extend(clashing),
        }
        self.savepoint(index, AS_USUAL).await?;
        for (key, error) in failed {
            done.add(self.set_key_aside(index, part, key, error.failure, building).await?);
        }
        // Where the rows of those that fail go, they go first.
        if !refused.is_empty() {
            done.counts = done.counts.plus(self.set_clashing_aside(index, refused, attempts > 1).await?);
        }
        Ok(done)
    }

    /// Everything at once, and if that fails, key by key.
    pub(super) async fn everything_isolating(&mut self, index: usize) -> Result<Counts, BatchError> {
        self.begin_attempt(index).await?;
        let result = self.everything_at_once(index).await;
        let branches = self.projections[index].plan.branches().to_vec();
        let parts = (0..branches.len()).map(Part::Branch).chain([Part::Groups]);
        if branches.is_empty() {
            // There are no keys to tell apart.
            return result.map(|done| done.counts);
        }
        if let Ok(done) = self.end_attempt(index, result).await? {
            parts.for_each(|part| self.projections[index].quarantine.all_refreshed(part));
            self.settle(index, [], done.refused);
            return Ok(done.counts);
        }
        let mut counts = Counts::default();
        let places =
            lockstep_plan::emit::Places { schema: self.projections[index].schema.clone(), state_schema: "lockstep".to_owned() };
        for (number, branch) in branches.iter().enumerate() {
            let part = Part::Branch(number);
            // First what is kept: its root may be gone. Then all roots.
            let kept = emit::kept_keys(&self.projections[index].plan, branch, &places);
            counts = counts.plus(self.isolate_all(index, part, Side::Target, &kept).await?);
            let of_projection = self.projections[index].plan.reads_projections_only();
            let side = if of_projection { Side::Target } else { Side::Source };
            counts = counts.plus(self.isolate_all(index, part, side, &emit::root_keys(&branch.root)).await?);
        }
        if matches!(self.sql[index], Statements::Grouped { .. }) {
            self.fill_accumulators(index).await?;
            counts = counts.plus(self.groups_isolating(index, Groups::All).await?);
        }
        Ok(counts)
    }

    /// Groups at once, and if that fails, group by group.
    pub(super) async fn groups_isolating(&mut self, index: usize, groups: Groups) -> Result<Counts, BatchError> {
        self.begin_attempt(index).await?;
        let result = self.groups_at_once(index, &groups).await;
        let group_columns = match &self.projections[index].plan.maintenance {
            Maintenance::Grouped(grouped) => grouped.group_columns.len(),
            Maintenance::Row(_) | Maintenance::Whole(_) => 0,
        };
        // Where there is one group, it is all of them.
        let groups = if group_columns == 0 { Groups::All } else { groups };
        match (self.end_attempt(index, result).await?, groups) {
            (Ok(done), groups) => {
                self.note_good_groups(index, &groups);
                self.settle(index, [], done.refused);
                Ok(done.counts)
            }
            (Err(error), Groups::All) if group_columns == 0 => {
                Ok(self.set_key_aside(index, Part::Groups, Vec::new(), error.failure, false).await?.counts)
            }
            (Err(_), Groups::Some(columns)) => {
                let (groups, roots) = columns.split_at(group_columns);
                let roots = roots.to_vec();
                let mut counts = Counts::default();
                let mut keys = keys_of(groups);
                while !keys.is_empty() {
                    let page = keys.split_off(keys.len().saturating_sub(self.options.statement_keys_max));
                    counts = counts.plus(self.isolate(index, Part::Groups, page, &roots, false).await?.counts);
                }
                Ok(counts)
            }
            (Err(_), Groups::All) => self.all_groups_isolating(index).await,
        }
    }

    async fn all_groups_isolating(&mut self, index: usize) -> Result<Counts, BatchError> {
        let Statements::Grouped { leftovers, group_keys, .. } = &self.sql[index] else { return Ok(Counts::default()) };
        let mut counts = Counts::default();
        if let Some(leftovers) = leftovers {
            counts = self.merge(index, leftovers, &[]).await?;
        }
        Ok(counts.plus(self.isolate_all(index, Part::Groups, Side::Target, group_keys).await?))
    }

    /// Refreshes all keys that a query returns, page by page.
    async fn isolate_all(&mut self, index: usize, part: Part, side: Side, query: &str) -> Result<Counts, BatchError> {
        // A cursor of ours sees what was there before it, and survives the savepoints after it.
        let declare = format!("DECLARE lockstep_keys NO SCROLL CURSOR FOR {query}");
        let fetch = format!("FETCH {} FROM lockstep_keys", self.options.statement_keys_max);
        let at = |error| BatchError::Sql { side, error, projection: Some(index) };
        self.client(side).batch_execute(&declare).await.map_err(at)?;
        let mut counts = Counts::default();
        loop {
            let rows = self.client(side).query(&fetch, &[]).await.map_err(at)?;
            if rows.is_empty() {
                break;
            }
            let keys: Vec<Key> = rows.iter().map(key_of_row).collect();
            // Accumulators are filled anew once all contributions are there.
            let roots = self.no_roots(index, part);
            counts = counts.plus(self.isolate(index, part, keys, &roots, true).await?.counts);
        }
        self.client(side).batch_execute("CLOSE lockstep_keys").await.map_err(at)?;
        Ok(counts)
    }

    /// Empty arrays for the roots that are bound after groups.
    pub(super) fn no_roots(&self, index: usize, part: Part) -> Columns {
        match (&self.projections[index].plan.maintenance, part) {
            (Maintenance::Grouped(grouped), Part::Groups) if grouped.found_by_root => {
                grouped.branches.first().map(|branch| vec![Vec::new(); branch.root.key.len()]).unwrap_or_default()
            }
            (Maintenance::Grouped(_) | Maintenance::Row(_) | Maintenance::Whole(_), _) => Vec::new(),
        }
    }

    async fn attempt(
        &mut self,
        index: usize,
        part: Part,
        keys: &[Key],
        roots: &Columns,
        building: bool,
    ) -> Result<Result<Refreshed, Failed>, BatchError> {
        let mut columns = columns_of(keys.iter().cloned(), keys.first().map_or(0, Vec::len));
        self.savepoint(index, &format!("{ATTEMPT}; {BY_INDEX_ONLY}")).await?;
        // Their plans are kept, so they are not those of the usual statements.
        self.prepared.apart = true;
        let result = match part {
            Part::Branch(branch) => {
                let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
                self.refresh_bound(index, branch, &bound, building).await
            }
            Part::Groups => {
                columns.extend(roots.iter().cloned());
                self.groups_at_once(index, &Groups::Some(columns)).await
            }
        };
        self.prepared.apart = false;
        self.end_attempt(index, result).await
    }

    /// Whether a root key that the target has no characters for has no rows on the source any more, either.
    async fn is_nowhere(&mut self, index: usize, part: Part, key: &Key) -> Result<bool, BatchError> {
        let Part::Branch(branch) = part else { return Ok(false) };
        let stage = self.projections[index].stages.as_ref().and_then(|stages| stages.get(branch));
        let Some(look) = stage.map(Stage::is_empty_statement) else { return Ok(false) };
        let columns = columns_of([key.clone()], key.len());
        let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        self.begin_attempt(index).await?;
        let staged = self.stage(index, branch, Some(&bound)).await;
        match self.end_attempt(index, staged).await? {
            Ok(()) => Ok(self.query_target(index, &look, &[]).await?.first().is_some_and(|row| row.get(0))),
            Err(_) => Ok(false),
        }
    }

    async fn begin_attempt(&self, index: usize) -> Result<(), BatchError> {
        self.savepoint(index, ATTEMPT).await
    }

    /// Keeps what was done, or undoes it if it failed on some row's data. Other errors end the batch.
    async fn end_attempt<T>(&self, index: usize, result: Result<T, BatchError>) -> Result<Result<T, Failed>, BatchError> {
        let error = match result {
            Ok(done) => {
                self.savepoint(index, "RELEASE SAVEPOINT lockstep_attempt").await?;
                return Ok(Ok(done));
            }
            Err(BatchError::Sql { error, projection: Some(_), .. }) if is_about_data(&error) => error,
            Err(error) => return Err(error),
        };
        self.savepoint(index, "ROLLBACK TO SAVEPOINT lockstep_attempt; RELEASE SAVEPOINT lockstep_attempt").await?;
        let message = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
        let sqlstate = error.code().map(|state| state.code().to_owned());
        Ok(Err(Failed { clash: is_clash(&error), failure: Failure { sqlstate, message, blocker: None } }))
    }

    async fn savepoint(&self, index: usize, statement: &str) -> Result<(), BatchError> {
        let at = |side| move |error| BatchError::Sql { side, error, projection: Some(index) };
        self.sessions.target().batch_execute(statement).await.map_err(at(Side::Target))?;
        if !self.sessions.is_one() {
            self.sessions.source().batch_execute(statement).await.map_err(at(Side::Source))?;
        }
        Ok(())
    }

    async fn set_key_aside(
        &mut self,
        index: usize,
        part: Part,
        key: Key,
        failure: Failure,
        building: bool,
    ) -> Result<Refreshed, BatchError> {
        self.refuse_too_many(index, 1, Some(&failure))?;
        let mut done = Refreshed::default();
        if self.projections[index].on_error == OnError::Remove {
            done = if failure.sqlstate.as_deref().is_some_and(is_about_encoding) {
                self.begin_attempt(index).await?;
                let removed = self.remove_row(index, part, &key, building).await;
                // What the target has no characters for has no row there.
                self.end_attempt(index, removed).await?.unwrap_or_default()
            } else {
                self.remove_row(index, part, &key, building).await?
            };
        }
        self.projections[index].quarantine.failed(part, key, failure);
        Ok(done)
    }

    async fn remove_row(&mut self, index: usize, part: Part, key: &Key, building: bool) -> Result<Refreshed, BatchError> {
        let mut done = Refreshed::default();
        let columns = columns_of([key.clone()], key.len());
        let bound: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        match (&self.sql[index], part) {
            (Statements::Row { removal, .. }, _) | (Statements::Grouped { removal, .. }, Part::Groups) => {
                done.counts = self.merge(index, removal, &bound).await?;
            }
            (Statements::Grouped { branches, .. }, Part::Branch(branch)) => {
                let statements = &branches[branch];
                let sql = if building { &statements.removal } else { &statements.live_removal };
                done.groups = self.query_target(index, sql, &bound).await?;
            }
            (Statements::Whole { .. }, _) => {}
        }
        Ok(done)
    }

    /// A fault that strikes so many keys is the query's, not theirs.
    pub(super) fn refuse_too_many(&self, index: usize, more: usize, failure: Option<&Failure>) -> Result<(), BatchError> {
        if self.projections[index].quarantine.len() + more <= self.options.quarantined_max {
            return Ok(());
        }
        let sqlstate = failure.and_then(|failure| failure.sqlstate.clone());
        Err(BatchError::TooManyFail { projection: index, keys_max: self.options.quarantined_max, sqlstate })
    }

    pub(super) fn client(&self, side: Side) -> &tokio_postgres::Client {
        match side {
            Side::Source => self.sessions.source(),
            Side::Target => self.sessions.target(),
        }
    }
}
