//! From a batch's dirty keys to one projection's work.

use lockstep_capture::{Batch, DirtyKeys, KeySet};
use lockstep_connect::{Text, TextRef, is_about_encoding};
use lockstep_plan::emit::Link;
use lockstep_plan::{Branch, Clock, Trace};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::BatchRun;
use crate::error::{BatchError, Side};
use crate::projection::Tracing;

/// What a projection has to do in a batch.
pub(crate) enum Work {
    Nothing,
    /// Refresh these root keys of each branch.
    Keys(Vec<KeySet>),
    /// Refresh all rows.
    Everything,
}

/// A role of a relation: whose rows are traced, in which branch.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoleAt {
    pub(super) branch: usize,
    pub(super) role: usize,
}

/// Binds text arrays.
pub(crate) fn parameters<'a>(arrays: &'a [Vec<TextRef<'a>>]) -> Vec<&'a (dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}

/// Rows of texts, one array for each column.
pub(crate) type Columns = Vec<Vec<Option<Text>>>;

/// Turns rows of texts into one array for each of `columns` columns.
pub(crate) fn columns_of_rows(rows: &[Row], columns: usize) -> Columns {
    let mut arrays: Columns = vec![Vec::with_capacity(rows.len()); columns];
    for row in rows {
        for (index, array) in arrays.iter_mut().enumerate() {
            array.push(row.get(index));
        }
    }
    arrays
}

/// Whether more root keys can be named, or the projection has to be refreshed in full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Left,
    Exhausted,
}

/// The keys of a set from a place on; `None` if there is no room for them.
fn keys_from(keys: &KeySet, start: usize) -> Option<KeySet> {
    let mut rest = KeySet::new(keys.columns());
    (start..keys.len()).all(|n| rest.insert(&keys.fields(n))).then_some(rest)
}

impl BatchRun<'_> {
    /// Traces the batch's dirty keys, and what has come and gone with the time, to the projection's root keys, and brings its links
    /// up to date.
    pub(crate) async fn trace(&mut self, index: usize, batch: &Batch) -> Result<Work, BatchError> {
        let plan = &self.projections[index].plan;
        let written = |oid: &u32| batch.relations.contains_key(oid) || self.written.contains_key(oid);
        let touched = plan.relations.iter().any(|relation| written(&relation.oid));
        if !touched && !plan.follows_clock() {
            return Ok(Work::Nothing);
        }
        let branches = plan.branches().to_vec();
        if branches.is_empty() {
            return Ok(Work::Everything);
        }
        let mut roots: Vec<KeySet> = branches.iter().map(|branch| KeySet::new(branch.root.key.len())).collect();
        let mut room = Room::Left;
        for (number, branch) in branches.iter().enumerate() {
            if self.trace_branch(index, number, branch, batch, &mut roots[number]).await? == Room::Exhausted {
                room = Room::Exhausted;
            }
        }
        if room == Room::Left {
            room = self.trace_below(index, &branches, &mut roots).await?;
        }
        Ok(match room {
            // Links are filled anew by what refreshes everything.
            Room::Exhausted => Work::Everything,
            Room::Left if roots.iter().all(KeySet::is_empty) => Work::Nothing,
            Room::Left => Work::Keys(roots),
        })
    }

    async fn trace_branch(
        &mut self,
        index: usize,
        number: usize,
        branch: &Branch,
        batch: &Batch,
        roots: &mut KeySet,
    ) -> Result<Room, BatchError> {
        for (role_index, role) in branch.roles.iter().enumerate() {
            if role.follows.is_some() {
                continue;
            }
            let at = RoleAt { branch: number, role: role_index };
            let relation = self.projections[index].plan.relations[role.relation].clone();
            let mut flipped = KeySet::new(relation.identity_columns().len());
            let mut written = self.written.get(&relation.oid).cloned();
            // The changes of inheritance children come under their own names.
            let family = std::iter::once(&relation.oid).chain(&relation.children);
            let mut changed: Vec<&DirtyKeys> = family.filter_map(|oid| batch.relations.get(oid)).collect();
            if relation.is_keyless()
                && let [DirtyKeys::Keys(rows)] = changed[..]
            {
                written = Some(self.hashes(index, &relation, rows).await?);
                changed.clear();
            }
            let mut dirty = Vec::new();
            for found in written.iter().chain(changed) {
                match found {
                    DirtyKeys::Whole => return Ok(Room::Exhausted),
                    DirtyKeys::Keys(keys) => dirty.push(keys),
                }
            }
            for clock in branch.clocks.iter().filter(|clock| clock.role == role_index) {
                if self.add_flipped(index, clock, &mut flipped).await? == Room::Exhausted {
                    return Ok(Room::Exhausted);
                }
            }
            for keys in dirty.into_iter().chain((!flipped.is_empty()).then_some(&flipped)) {
                if self.trace_role(index, at, &role.trace, keys, roots).await? == Room::Exhausted {
                    return Ok(Room::Exhausted);
                }
            }
        }
        Ok(Room::Left)
    }

    /// Adds what is below the roots that were found, and what is below that, until nothing new is found.
    async fn trace_below(&mut self, index: usize, branches: &[Branch], roots: &mut [KeySet]) -> Result<Room, BatchError> {
        let of_branch = |(branch, found): (usize, &Branch)| {
            let follows = found.roles.iter().map(|role| role.follows).enumerate();
            let all = follows.filter_map(|(role, follows)| Some((RoleAt { branch, role }, follows?, 0)));
            all.collect::<Vec<_>>()
        };
        // Where, the branch whose roots are followed, and how many of them were.
        let mut follow: Vec<(RoleAt, usize, usize)> = branches.iter().enumerate().flat_map(of_branch).collect();
        loop {
            let mut found = false;
            for (at, followed, done) in &mut follow {
                let Some(keys) = keys_from(&roots[*followed], *done) else { return Ok(Room::Exhausted) };
                if keys.is_empty() {
                    continue;
                }
                *done = roots[*followed].len();
                found = true;
                let trace = &branches[at.branch].roles[at.role].trace;
                if self.trace_role(index, *at, trace, &keys, &mut roots[at.branch]).await? == Room::Exhausted {
                    return Ok(Room::Exhausted);
                }
            }
            if !found {
                return Ok(Room::Left);
            }
        }
    }

    async fn trace_role(
        &mut self,
        index: usize,
        at: RoleAt,
        trace: &Trace,
        keys: &KeySet,
        roots: &mut KeySet,
    ) -> Result<Room, BatchError> {
        match trace {
            Trace::Root if roots.extend(keys) => Ok(Room::Left),
            Trace::Root | Trace::Whole => Ok(Room::Exhausted),
            Trace::Keys(_) | Trace::Link(_) if self.projections[index].tracing == Tracing::GivenUp => Ok(Room::Exhausted),
            Trace::Keys(sql) => self.trace_keys(index, sql, keys, roots).await,
            Trace::Link(_) => self.trace_link(index, at, keys, roots).await,
        }
    }

    /// Adds the keys of rows whose comparison with the time may have another answer than in the last batch.
    async fn add_flipped(&mut self, index: usize, clock: &Clock, flipped: &mut KeySet) -> Result<Room, BatchError> {
        // A projection that begins to be built has no rows yet; one that is live was computed in some batch.
        let Some(before) = self.clock.map(str::to_owned) else {
            return Ok(if self.projections[index].is_building() { Room::Left } else { Room::Exhausted });
        };
        self.add_keys(index, &clock.flipped, &[&before], flipped).await
    }

    /// Whether any row of a projection comes or goes with the time that has passed since the last batch.
    pub(super) async fn any_flipped(&mut self, index: usize) -> Result<bool, BatchError> {
        let branches = self.projections[index].plan.branches().to_vec();
        for branch in &branches {
            for clock in &branch.clocks {
                let relation = &self.projections[index].plan.relations[branch.roles[clock.role].relation];
                let mut flipped = KeySet::new(relation.identity_columns().len());
                if self.add_flipped(index, clock, &mut flipped).await? == Room::Exhausted || !flipped.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Adds the root keys of dirty keys that need no old state.
    async fn trace_keys(&mut self, index: usize, sql: &str, keys: &KeySet, roots: &mut KeySet) -> Result<Room, BatchError> {
        let mut start = 0;
        while start < keys.len() {
            let end = (start + self.options.statement_keys_max).min(keys.len());
            self.plan_for(index, end - start).await?;
            let arrays = keys.arrays(start..end);
            if self.add_keys(index, sql, &parameters(&arrays), roots).await? == Room::Exhausted {
                return Ok(Room::Exhausted);
            }
            start = end;
        }
        Ok(Room::Left)
    }

    /// Brings a link up to date for dirty keys, and adds the roots that the old and the new values concern.
    async fn trace_link(&mut self, index: usize, at: RoleAt, keys: &KeySet, roots: &mut KeySet) -> Result<Room, BatchError> {
        let Some(link) = self.sql[index].links(at.branch).get(at.role).cloned().flatten() else { return Ok(Room::Exhausted) };
        let mut room = Room::Left;
        let mut start = 0;
        while start < keys.len() {
            let end = (start + self.options.statement_keys_max).min(keys.len());
            self.plan_for(index, end - start).await?;
            let arrays = keys.arrays(start..end);
            let dirty = parameters(&arrays);
            let rows = self.query_source(index, &link.fetch, &dirty).await?;
            let values = self.keep_link(index, &link, &dirty, &rows).await?;
            // The link has to be right whatever becomes of the roots.
            if room == Room::Left {
                let bound: Vec<&(dyn ToSql + Sync)> = values.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
                room = self.add_keys(index, &link.trace, &bound, roots).await?;
            }
            start = end;
        }
        Ok(room)
    }

    /// [`Self::trace_link`], for a repair; false if there is no room for the roots.
    pub(super) async fn link_traced(
        &mut self,
        index: usize,
        at: RoleAt,
        keys: &KeySet,
        roots: &mut KeySet,
    ) -> Result<bool, BatchError> {
        Ok(self.trace_link(index, at, keys, roots).await? == Room::Left)
    }

    /// Writes fetched rows to a link's table; returns the values before and now.
    async fn keep_link(
        &mut self,
        index: usize,
        link: &Link,
        dirty: &[&(dyn ToSql + Sync)],
        rows: &[Row],
    ) -> Result<Columns, BatchError> {
        let fresh = columns_of_rows(rows, link.key_columns + link.value_columns);
        let bound: Vec<&(dyn ToSql + Sync)> =
            dirty.iter().copied().chain(fresh.iter().map(|array| array as &(dyn ToSql + Sync))).collect();
        let values = self.query_target(index, &link.merge, &bound).await.map_err(|error| match error {
            // What the target has no characters for cannot be kept there: then nothing is traced by it.
            BatchError::Sql { error, .. } if error.code().is_some_and(|state| is_about_encoding(state.code())) => {
                BatchError::Trace { error, projection: index }
            }
            other => other,
        })?;
        Ok(columns_of_rows(&values, link.value_columns))
    }

    /// Fills all links of a projection anew.
    pub(crate) async fn fill_links(&mut self, index: usize) -> Result<(), BatchError> {
        let branches = self.projections[index].plan.branches().len();
        for branch in 0..branches {
            let links: Vec<Link> = self.sql[index].links(branch).iter().flatten().cloned().collect();
            for link in links {
                self.fill_link(index, &link).await?;
            }
        }
        Ok(())
    }

    /// Empties all links of a projection: nobody keeps them up to date.
    pub(crate) async fn clear_links(&mut self, index: usize) -> Result<(), BatchError> {
        let branches = self.projections[index].plan.branches().len();
        let links = (0..branches).flat_map(|branch| self.sql[index].links(branch).iter().flatten().cloned());
        for link in links.collect::<Vec<_>>() {
            self.query_target(index, &link.clear, &[]).await?;
        }
        Ok(())
    }

    async fn fill_link(&mut self, index: usize, link: &Link) -> Result<(), BatchError> {
        self.query_target(index, &link.clear, &[]).await?;
        if let Some(query) = &link.all {
            return self.fill_link_at_once(index, link, query).await;
        }
        let mut rows = self.query_source(index, &link.first_page, &[]).await?;
        while let Some(last) = rows.last() {
            let last: Vec<Text> = (0..link.key_columns).map(|column| last.get(column)).collect();
            self.keep_new(index, link, &rows).await?;
            let bounds: Vec<&(dyn ToSql + Sync)> = last.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
            rows = self.query_source(index, &link.next_page, &bounds).await?;
        }
        Ok(())
    }

    /// Fills a link from one reading of its table.
    async fn fill_link_at_once(&mut self, index: usize, link: &Link, query: &str) -> Result<(), BatchError> {
        let side = if self.projections[index].plan.reads_projections_only() { Side::Target } else { Side::Source };
        let at = |error| tracing_failed(side, index, error);
        let declare = format!("DECLARE lockstep_link NO SCROLL CURSOR FOR {query}");
        let fetch = format!("FETCH {} FROM lockstep_link", self.options.page_rows_max);
        self.client(side).batch_execute(&declare).await.map_err(at)?;
        loop {
            let rows = self.client(side).query(&fetch, &[]).await.map_err(at)?;
            if rows.is_empty() {
                break;
            }
            self.keep_new(index, link, &rows).await?;
        }
        self.client(side).batch_execute("CLOSE lockstep_link").await.map_err(at)
    }

    /// Writes rows to a link that keeps nothing of them yet.
    async fn keep_new(&mut self, index: usize, link: &Link, rows: &[Row]) -> Result<(), BatchError> {
        let none: Columns = vec![Vec::new(); link.key_columns];
        let dirty: Vec<&(dyn ToSql + Sync)> = none.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        self.keep_link(index, link, &dirty, rows).await?;
        Ok(())
    }

    /// Runs a query and adds the keys that it returns.
    async fn add_keys(
        &mut self,
        index: usize,
        sql: &str,
        bound: &[&(dyn ToSql + Sync)],
        keys: &mut KeySet,
    ) -> Result<Room, BatchError> {
        let bounded = format!("SELECT * FROM (\n{sql}\n) AS traced LIMIT {}", self.options.root_keys_max + 1);
        for row in self.query_source(index, &bounded, bound).await? {
            let fields: Vec<TextRef<'_>> = (0..row.len()).map(|column| row.get(column)).collect();
            let bytes: Vec<&[u8]> = fields.iter().map(|field| field.0).collect();
            if !keys.insert(&bytes) {
                return Ok(Room::Exhausted);
            }
        }
        Ok(if keys.len() > self.options.root_keys_max { Room::Exhausted } else { Room::Left })
    }

    /// Runs a statement of tracing on the source. It may fail on a row that the query itself filters out.
    async fn query_source(&mut self, index: usize, sql: &str, bound: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, BatchError> {
        if self.projections[index].plan.reads_projections_only() {
            return self.query_target(index, sql, bound).await;
        }
        let failed = |error| tracing_failed(Side::Source, index, error);
        let source = self.sessions.source();
        let statement = self.prepared.on_source(source, sql).await.map_err(failed)?;
        source.query(&statement, bound).await.map_err(failed)
    }
}

/// A statement of tracing that fails on data says nothing about the projection's own query, which may leave that row out.
fn tracing_failed(side: Side, index: usize, error: tokio_postgres::Error) -> BatchError {
    match error.code() {
        Some(code) if code.code().starts_with("22") => BatchError::Trace { error, projection: index },
        Some(_) | None => BatchError::Sql { side, error, projection: Some(index) },
    }
}
