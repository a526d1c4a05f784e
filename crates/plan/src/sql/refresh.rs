//! The refresh statements of each kind of projection.

use super::merge::{self, Merge, RowKey, Target, locator, same_key};
use crate::facts::OutputColumn;
use crate::plan::{AggregatePlan, Plan, Root, RowPlan};
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
}

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The schema of the read models.
    pub schema: String,
    /// The schema of hidden state.
    pub state_schema: String,
}

fn names(plan: &Plan) -> Vec<String> {
    plan.columns.iter().map(|column| column.name.clone()).collect()
}

/// `dirty AS (…)`: bound text arrays as typed key columns `k1`….
pub fn dirty_cte(root: &Root) -> String {
    let columns: Vec<String> =
        root.key.iter().enumerate().map(|(n, (_, type_name))| format!("d.d{0}::{type_name} AS k{0}", n + 1)).collect();
    format!("dirty AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {}\n)", columns.join(", "), unnest(root.key.len()))
}

fn fresh_cte(columns: &[String], source: &str) -> String {
    let renamed: Vec<String> = columns.iter().map(|column| quote::identifier(column)).collect();
    // As it is: indenting it would change string literals that span lines.
    format!("fresh ({}) AS MATERIALIZED (\n{source}\n)", renamed.join(", "))
}

fn staged(table: &str, columns: &[String]) -> String {
    format!("SELECT {} FROM {table}", quote::list(columns))
}

/// Refreshes a row projection.
pub fn row_merge(plan: &Plan, row: &RowPlan, places: &Places, keys: TracedKeys, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let query = match (fresh, keys) {
        (Fresh::Query, TracedKeys::Bound) => row.dirty_row_query.clone(),
        (Fresh::Query, TracedKeys::Everything) => row.row_query.clone(),
        (Fresh::Staged(stage), _) => staged(stage, &columns),
    };
    let target = Target { table: &table, columns: &columns, key: &plan.key, check_duplicates: false };
    let fresh = fresh_cte(&columns, &query);
    match keys {
        TracedKeys::Bound => {
            let condition: Vec<String> = plan
                .key
                .columns()
                .iter()
                .enumerate()
                .map(|(n, column)| format!("t.{} = dirty.k{}", quote::identifier(column), n + 1))
                .collect();
            merge::merge(&[dirty_cte(&row.root), fresh], &target, Some(("dirty", &condition.join(" AND "))))
        }
        TracedKeys::Everything => merge::merge(&[fresh], &target, None),
    }
}

/// Refreshes a whole projection.
pub fn whole_merge(plan: &Plan, places: &Places, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let query = match fresh {
        Fresh::Query => plan.query.clone(),
        Fresh::Staged(stage) => staged(stage, &columns),
    };
    let target = Target { table: &table, columns: &columns, key: &plan.key, check_duplicates: plan.key_needs_check };
    merge::merge(&[fresh_cte(&columns, &query)], &target, None)
}

/// Replaces contributions. For bound keys it returns the groups that they left, joined or changed in, as text columns; for
/// everything it returns nothing of use, since all groups are recomputed.
pub fn contribution_merge(aggregate: &AggregatePlan, places: &Places, keys: TracedKeys, fresh: &Fresh) -> String {
    let state = &aggregate.contributions;
    let table = quote::qualified(&places.state_schema, &state.name);
    let query = match (fresh, keys) {
        (Fresh::Query, TracedKeys::Bound) => aggregate.dirty_contribution_query.clone(),
        (Fresh::Query, TracedKeys::Everything) => aggregate.contribution_query.clone(),
        (Fresh::Staged(stage), _) => staged(stage, &state.columns),
    };
    let fresh = fresh_cte(&state.columns, &query);
    let key = RowKey::Primary(state.key.clone());
    if keys == TracedKeys::Everything {
        let target = Target { table: &table, columns: &state.columns, key: &key, check_duplicates: false };
        return merge::merge(&[fresh], &target, None).in_place;
    }
    let same = |a: &str, b: &str| same_key(a, b, &state.key, &state.key, &key);
    let differ = |a: &str, b: &str| merge::differs(a, b, &state.columns);
    let on_dirty: Vec<String> = state.key.iter().map(|column| format!("t.{0} = dirty.{0}", quote::identifier(column))).collect();
    let assignments: Vec<String> =
        state.columns.iter().map(|column| format!("{0} = fresh.{0}", quote::identifier(column))).collect();
    let groups = |prefix: &str| quote::prefixed_list(prefix, &aggregate.group_columns);
    let (touched_columns, result) = if aggregate.group_columns.is_empty() {
        (["1 AS g1".to_owned(), "1".to_owned()], "SELECT g1::text FROM touched".to_owned())
    } else {
        let texts: Vec<String> =
            aggregate.group_columns.iter().map(|column| format!("{}::text", quote::identifier(column))).collect();
        ([groups("old."), groups("fresh.")], format!("SELECT {} FROM touched", texts.join(", ")))
    };
    format!(
        "WITH {dirty}, {fresh}, old AS MATERIALIZED (
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
)
{result}",
        dirty = dirty_cte(&aggregate.root),
        on_dirty = on_dirty.join(" AND "),
        old_is_t = same("old", "t"),
        fresh_is_old = same("fresh", "old"),
        fresh_is_t = same("fresh", "t"),
        t_differs = differ("t", "fresh"),
        old_differs = differ("old", "fresh"),
        assignments = assignments.join(", "),
        columns = quote::list(&state.columns),
        fresh_columns = quote::prefixed_list("fresh.", &state.columns),
        old_groups = touched_columns[0],
        fresh_groups = touched_columns[1],
    )
}

/// Recomputes groups from the contributions: those bound to `$1::text[]`…, or all.
pub fn group_merge(plan: &Plan, aggregate: &AggregatePlan, places: &Places, keys: TracedKeys) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let contributions = quote::qualified(&places.state_schema, &aggregate.contributions.name);
    let alias = crate::aggregate::CONTRIBUTION_ALIAS;
    let group_columns = &aggregate.group_columns;
    let mut query = format!("SELECT {}\nFROM {contributions} AS {alias}", aggregate.select_list.join(", "));
    let by_groups = keys == TracedKeys::Bound && !group_columns.is_empty();
    if by_groups {
        let at = locator(&format!("{alias}."), group_columns);
        query.push_str(&format!("\nWHERE {at} IN (SELECT {} FROM dirty)", locator("dirty.", group_columns)));
    }
    if !group_columns.is_empty() {
        let by: Vec<&String> = group_columns.iter().chain(&aggregate.dependent_columns).collect();
        query.push_str(&format!("\nGROUP BY {}", quote::prefixed_list(&format!("{alias}."), &by)));
    }
    if let Some(having) = &aggregate.having {
        query.push_str(&format!("\nHAVING {having}"));
    }
    let target = Target { table: &table, columns: &columns, key: &plan.key, check_duplicates: false };
    let fresh = fresh_cte(&columns, &query);
    if !by_groups {
        return merge::merge(&[fresh], &target, None);
    }
    let typed: Vec<String> = plan
        .key
        .columns()
        .iter()
        .zip(group_columns)
        .enumerate()
        .map(|(n, (output, group))| {
            let typed = plan.columns.iter().find(|column| &column.name == output).map_or("text".to_owned(), OutputColumn::typed);
            format!("d.d{}::{typed} AS {}", n + 1, quote::identifier(group))
        })
        .collect();
    let dirty = format!("dirty AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {}\n)", typed.join(", "), unnest(typed.len()));
    let among = same_key("t", "dirty", plan.key.columns(), group_columns, &plan.key);
    merge::merge(&[dirty, fresh], &target, Some(("dirty", &among)))
}

/// The next root keys after those bound to `$1`…, as text columns, in key order; from the start if `from_start`.
pub fn next_root_keys(root: &Root, from_start: bool, limit: usize) -> String {
    let columns: Vec<String> = root.key.iter().map(|(column, _)| format!("r.{}", quote::identifier(column))).collect();
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
