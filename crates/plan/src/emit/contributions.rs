//! The statements that replace contributions.

use super::accumulate;
use super::merge::{self, Target, numbered, same_key};
use super::parts::{Fresh, Places, TracedKeys, dirty_cte, fresh_cte, nothing, staged};
use crate::model::accumulators::Accumulators;
use crate::model::plan::{Branch, GroupedPlan};
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::model::state::StateTable;

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
    Replaced { branch, state, group_columns, places }.by(keys, fresh, None)
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
    Replaced { branch, state, group_columns: &grouped.group_columns, places }.by(TracedKeys::Bound, fresh, Some(&moves))
}

/// The contributions that a statement replaces.
struct Replaced<'a> {
    branch: &'a Branch,
    state: &'a StateTable,
    group_columns: &'a [String],
    places: &'a Places,
}

impl Replaced<'_> {
    fn by(&self, keys: TracedKeys, fresh: &Fresh, moves: Option<&str>) -> String {
        let Self { branch, state, group_columns, places } = *self;
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
