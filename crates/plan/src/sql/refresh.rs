//! The refresh statements of each kind of projection.

use super::merge::{self, Merge, RowKey, Target, numbered, same_key};
use super::{StateTable, accumulate};
use crate::accumulate::Accumulators;
use crate::plan::{Branch, GroupedPlan, Plan, Root};
use crate::quote;
use crate::trace::unnest;

/// Which rows a statement refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedKeys {
    /// Those bound to `$1::text[]`…, one array for each key column.
    Bound,
    /// All of them.
    Everything,
}

/// Where a statement's fresh rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// The query itself: source and target are one database.
    Query,
    /// A staging table (quoted name) that was filled from the source.
    Staged(String),
    /// There are none: what is kept for the keys goes.
    Nothing,
}

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The schema of the read models.
    pub schema: String,
    /// The schema of hidden state.
    pub state_schema: String,
}

pub(super) fn names(plan: &Plan) -> Vec<String> {
    plan.columns.iter().map(|column| column.name.clone()).collect()
}

/// `dirty AS (…)`: bound text arrays as typed key columns `k1`….
pub fn dirty_cte(root: &Root) -> String {
    let columns: Vec<String> =
        root.key.iter().enumerate().map(|(n, (_, type_name))| format!("d.d{0}::{type_name} AS k{0}", n + 1)).collect();
    format!("dirty AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {}\n)", columns.join(", "), unnest(root.key.len()))
}

pub(super) fn fresh_cte(columns: &[String], source: &str) -> String {
    let renamed: Vec<String> = columns.iter().map(|column| quote::identifier(column)).collect();
    // As it is: indenting it would change string literals that span lines.
    format!("fresh ({}) AS MATERIALIZED (\n{source}\n)", renamed.join(", "))
}

pub(super) fn staged(table: &str, columns: &[String]) -> String {
    format!("SELECT {} FROM {table}", quote::list(columns))
}

/// No rows, with the types of a table's.
pub(super) fn nothing(table: &str, columns: &[String]) -> String {
    format!("{} WHERE false", staged(table, columns))
}

/// The fresh rows of a row projection; for bound keys those of the CTE `dirty`.
pub(super) fn row_query(plan: &Plan, row: &Branch, places: &Places, keys: TracedKeys, fresh: &Fresh) -> String {
    let columns = names(plan);
    match (fresh, keys) {
        (Fresh::Query, TracedKeys::Bound) => row.dirty_query.clone(),
        (Fresh::Query, TracedKeys::Everything) => row.query.clone(),
        (Fresh::Staged(stage), _) => staged(stage, &columns),
        (Fresh::Nothing, _) => nothing(&quote::qualified(&places.schema, &plan.projection), &columns),
    }
}

/// Refreshes a row projection.
pub fn row_merge(plan: &Plan, row: &Branch, places: &Places, keys: TracedKeys, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let query = row_query(plan, row, places, keys, fresh);
    // A declared key does not follow from the root's: its rows may meet.
    let check_duplicates = !plan.owner.is_empty();
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates,
        report: plan.reports_keys,
    };
    let fresh = fresh_cte(&columns, &query);
    match keys {
        TracedKeys::Bound => {
            let owner = if plan.owner.is_empty() { plan.key.columns() } else { &plan.owner };
            let dirty: Vec<String> = (1..=owner.len()).map(|n| format!("k{n}")).collect();
            // Copies are found by the index on the hash; a primary key and the owner have an index of their own.
            let by = if plan.owner.is_empty() { plan.key.clone() } else { RowKey::Primary(Vec::new()) };
            let condition = same_key("t", "dirty", owner, &dirty, &by);
            merge::merge(&[dirty_cte(&row.root), fresh], &target, Some(("dirty", &condition)))
        }
        TracedKeys::Everything => merge::merge(&[fresh], &target, None),
    }
}

/// All fresh rows of a whole projection.
pub(super) fn whole_query(plan: &Plan, places: &Places, fresh: &Fresh) -> String {
    let columns = names(plan);
    match fresh {
        Fresh::Query => plan.query.clone(),
        Fresh::Staged(stage) => staged(stage, &columns),
        Fresh::Nothing => nothing(&quote::qualified(&places.schema, &plan.projection), &columns),
    }
}

/// Refreshes a whole projection.
pub fn whole_merge(plan: &Plan, places: &Places, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let query = whole_query(plan, places, fresh);
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates: plan.key_needs_check,
        report: plan.reports_keys,
    };
    merge::merge(&[fresh_cte(&columns, &query)], &target, None)
}

/// Replaces a branch's contributions. For bound keys it returns the groups that they left, joined or changed in, as text columns;
/// for everything it returns nothing of use, since all groups are recomputed.
pub fn contribution_merge(
    branch: &Branch,
    state: &StateTable,
    group_columns: &[String],
    places: &Places,
    keys: TracedKeys,
    fresh: &Fresh,
) -> String {
    contributions_replaced(branch, state, group_columns, places, keys, fresh, None)
}

/// The same for bound keys, moving the accumulators along.
pub fn contribution_merge_accumulating(
    branch: &Branch,
    state: &StateTable,
    grouped: &GroupedPlan,
    accumulators: &Accumulators,
    places: &Places,
    fresh: &Fresh,
) -> String {
    let moves = accumulate::move_accumulators(grouped, accumulators, places);
    contributions_replaced(branch, state, &grouped.group_columns, places, TracedKeys::Bound, fresh, Some(&moves))
}

fn contributions_replaced(
    branch: &Branch,
    state: &StateTable,
    group_columns: &[String],
    places: &Places,
    keys: TracedKeys,
    fresh: &Fresh,
    moves: Option<&str>,
) -> String {
    let table = quote::qualified(&places.state_schema, &state.name);
    let query = match (fresh, keys) {
        (Fresh::Query, TracedKeys::Bound) => branch.dirty_query.clone(),
        (Fresh::Query, TracedKeys::Everything) => branch.query.clone(),
        (Fresh::Staged(stage), _) => staged(stage, &state.columns),
        (Fresh::Nothing, _) => nothing(&table, &state.columns),
    };
    let fresh = fresh_cte(&state.columns, &query);
    let key = if state.many_per_key { RowKey::Copies { within: Vec::new() } } else { RowKey::Primary(state.key.clone()) };
    if keys == TracedKeys::Everything {
        let target =
            Target { table: &table, columns: &state.columns, key: &key, owner: &[], check_duplicates: false, report: false };
        return merge::merge(&[fresh], &target, None).in_place;
    }
    let ctes = format!("WITH {}, {fresh}", dirty_cte(&branch.root));
    let result = if group_columns.is_empty() {
        "SELECT 1::text FROM touched LIMIT 1".to_owned()
    } else {
        let texts: Vec<String> = group_columns.iter().map(|column| format!("{}::text", quote::identifier(column))).collect();
        format!("SELECT {} FROM touched", texts.join(", "))
    };
    let replaced = if state.many_per_key {
        many_contributions(state, group_columns, &table)
    } else {
        single_contributions(state, group_columns, &table, &key)
    };
    let moves = moves.map(|moves| format!(", {}, {moves}", moved(state, &key))).unwrap_or_default();
    format!("{ctes}, {replaced}{moves}\n{result}")
}

/// The contributions that differ: `sign` -1 as they were, 1 as they are.
fn moved(state: &StateTable, key: &RowKey) -> String {
    let columns = |prefix: &str| quote::prefixed_list(prefix, &state.columns);
    let (was, is, unchanged) = if state.many_per_key {
        ("have", "want", merge::SAME_COPY.to_owned())
    } else {
        let same = same_key("fresh", "old", &state.key, &state.key, key);
        ("old", "fresh", format!("{same} AND NOT {}", merge::differs("old", "fresh", &state.columns)))
    };
    format!(
        "moved AS MATERIALIZED (
  SELECT -1 AS sign, {was_columns} FROM {was} WHERE NOT EXISTS (SELECT FROM {is} WHERE {unchanged})
  UNION ALL
  SELECT 1, {is_columns} FROM {is} WHERE NOT EXISTS (SELECT FROM {was} WHERE {unchanged})
)",
        was_columns = columns(&format!("{was}.")),
        is_columns = columns(&format!("{is}.")),
    )
}

/// The group columns of `prefix`, or something to select where there are none.
fn groups(prefix: &str, group_columns: &[String]) -> String {
    if group_columns.is_empty() { "1 AS g".to_owned() } else { quote::prefixed_list(prefix, group_columns) }
}

/// At most one contribution a root: updated in place.
fn single_contributions(state: &StateTable, group_columns: &[String], table: &str, key: &RowKey) -> String {
    let same = |a: &str, b: &str| same_key(a, b, &state.key, &state.key, key);
    let differ = |a: &str, b: &str| merge::differs(a, b, &state.columns);
    let assignments: Vec<String> =
        state.columns.iter().map(|column| format!("{0} = fresh.{0}", quote::identifier(column))).collect();
    format!(
        "old AS MATERIALIZED (
  SELECT t.* FROM {table} AS t JOIN dirty ON {on_dirty}
), gone AS (
  DELETE FROM {table} AS t USING old
  WHERE {old_is_t} AND NOT EXISTS (SELECT FROM fresh WHERE {fresh_is_old})
), changed AS (
  UPDATE {table} AS t SET {assignments}
  FROM fresh
  WHERE {fresh_is_t} AND {t_differs}
), added AS (
  INSERT INTO {table} ({columns})
  SELECT {fresh_columns} FROM fresh WHERE NOT EXISTS (SELECT FROM old WHERE {fresh_is_old})
), touched AS (
  SELECT {old_groups} FROM old WHERE NOT EXISTS (SELECT FROM fresh WHERE {fresh_is_old} AND NOT {old_differs})
  UNION
  SELECT {fresh_groups} FROM fresh WHERE NOT EXISTS (SELECT FROM old WHERE {fresh_is_old} AND NOT {old_differs})
)",
        on_dirty = same("t", "dirty"),
        old_is_t = same("old", "t"),
        fresh_is_old = same("fresh", "old"),
        fresh_is_t = same("fresh", "t"),
        t_differs = differ("t", "fresh"),
        old_differs = differ("old", "fresh"),
        assignments = assignments.join(", "),
        columns = quote::list(&state.columns),
        fresh_columns = quote::prefixed_list("fresh.", &state.columns),
        old_groups = groups("old.", group_columns),
        fresh_groups = groups("fresh.", group_columns),
    )
}

/// Any number of contributions a root: the n-th copy of a row stands for the n-th copy.
fn many_contributions(state: &StateTable, group_columns: &[String], table: &str) -> String {
    let key = RowKey::Primary(state.key.clone());
    format!(
        "have AS MATERIALIZED (
  SELECT t.ctid AS \"lockstep:row\", {t_columns}, {t_numbered}
  FROM {table} AS t JOIN dirty ON {on_dirty}
), want AS MATERIALIZED (
  SELECT {fresh_columns}, {fresh_numbered} FROM fresh
), gone AS (
  DELETE FROM {table} AS t USING have
  WHERE t.ctid = have.\"lockstep:row\" AND NOT EXISTS (SELECT FROM want WHERE {same})
), added AS (
  INSERT INTO {table} ({columns})
  SELECT {want_columns} FROM want WHERE NOT EXISTS (SELECT FROM have WHERE {same})
), touched AS (
  SELECT {old_groups} FROM have WHERE NOT EXISTS (SELECT FROM want WHERE {same})
  UNION
  SELECT {new_groups} FROM want WHERE NOT EXISTS (SELECT FROM have WHERE {same})
)",
        t_columns = quote::prefixed_list("t.", &state.columns),
        t_numbered = numbered("t.", &state.columns),
        on_dirty = same_key("t", "dirty", &state.key, &state.key, &key),
        fresh_columns = quote::prefixed_list("fresh.", &state.columns),
        fresh_numbered = numbered("fresh.", &state.columns),
        columns = quote::list(&state.columns),
        want_columns = quote::prefixed_list("want.", &state.columns),
        same = merge::SAME_COPY,
        old_groups = groups("have.", group_columns),
        new_groups = groups("want.", group_columns),
    )
}

/// Every root key, as text columns.
pub fn root_keys(root: &Root) -> String {
    let texts: Vec<String> = root.values("r").iter().map(|value| format!("{value}::text")).collect();
    format!("SELECT {} FROM {} AS r", texts.join(", "), quote::qualified(&root.schema, &root.name))
}

/// The root keys that a branch's rows or contributions are kept of, as text columns.
pub fn kept_keys(plan: &Plan, branch: &Branch, places: &Places) -> String {
    let (table, columns) = match &branch.contributions {
        Some(state) => (quote::qualified(&places.state_schema, &state.name), state.key.as_slice()),
        None if plan.owner.is_empty() => (quote::qualified(&places.schema, &plan.projection), plan.key.columns()),
        None => (quote::qualified(&places.schema, &plan.projection), plan.owner.as_slice()),
    };
    format!("SELECT DISTINCT {} FROM {table} AS t", texts("t.", columns))
}

pub(super) fn texts(prefix: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{prefix}{}::text", quote::identifier(column))).collect::<Vec<_>>().join(", ")
}

/// The next root keys after those bound to `$1`…, as text columns, in key order; from the start if `from_start`.
pub fn next_root_keys(root: &Root, from_start: bool, limit: usize) -> String {
    let columns = root.values("r");
    let texts: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
    let after = if from_start {
        String::new()
    } else {
        let bounds: Vec<String> =
            root.key.iter().enumerate().map(|(n, (_, type_name))| format!("${}::text::{type_name}", n + 1)).collect();
        format!(" WHERE ({}) > ({})", columns.join(", "), bounds.join(", "))
    };
    format!(
        "SELECT {} FROM {} AS r{after} ORDER BY {} LIMIT {limit}",
        texts.join(", "),
        quote::qualified(&root.schema, &root.name),
        columns.join(", ")
    )
}

/// A query on the source for one key that the defining query returns more than once: the key columns as text and the count.
pub fn defining_query_duplicates(query: &str, key: &[String]) -> String {
    let texts: Vec<String> = key.iter().map(|column| format!("q.{}::text", quote::identifier(column))).collect();
    let keys = quote::prefixed_list("q.", key);
    format!("SELECT count(*)::bigint, {} FROM (\n{query}\n) AS q GROUP BY {keys} HAVING count(*) > 1 LIMIT 1", texts.join(", "))
}
