//! The statements that make groups' rows from contributions.

use super::accumulate;
use super::merge::{self, Merge, Target, same_key};
use super::parts::{Fresh, Places, TracedKeys, fresh_cte, names, nothing, staged, texts};
use crate::model::contributions::{ARM, CONTRIBUTION_ALIAS, KEPT, kept_column};
use crate::model::plan::{GroupForm, GroupedPlan, Plan};
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::model::state::StateTable;
use crate::model::trace::{unnest, unnest_from};

/// Recomputes groups from the contributions: those bound to `$1::text[]`…, or all. Where rows are found by the root's key, the root keys
/// that were refreshed are bound after the groups.
pub fn group_merge(plan: &Plan, grouped: &GroupedPlan, places: &Places, keys: TracedKeys) -> Merge {
    group_merge_from(plan, grouped, places, keys, &Fresh::Query)
}

/// The groups' rows from the contributions; for bound keys those of the groups of the CTE `dirty`.
pub(super) fn group_query(grouped: &GroupedPlan, places: &Places, keys: TracedKeys) -> String {
    let by_groups = keys == TracedKeys::Bound && !grouped.group_columns.is_empty();
    let columns = &grouped.group_columns;
    let alias = CONTRIBUTION_ALIAS;
    let restriction = by_groups.then(|| same_key(alias, "dirty", columns, columns, &RowKey::Located(Vec::new())));
    match &grouped.accumulators {
        Some(accumulators) => accumulate::group_query(grouped, accumulators, places, restriction.as_deref()),
        None => recomputing_query(grouped, places, restriction.as_deref()),
    }
}

/// The same as [`group_merge`] with fresh rows from somewhere.
pub(super) fn group_merge_from(plan: &Plan, grouped: &GroupedPlan, places: &Places, keys: TracedKeys, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let group_columns = &grouped.group_columns;
    let by_groups = keys == TracedKeys::Bound && !group_columns.is_empty();
    let query = match fresh {
        Fresh::Query => group_query(grouped, places, keys),
        Fresh::Staged(stage) => staged(stage, &columns),
        Fresh::Nothing => nothing(&table, &columns),
    };
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates: false,
        report: plan.reports_keys,
    };
    let fresh = fresh_cte(&columns, &query);
    if !by_groups {
        return merge::merge(&[fresh], &target, None);
    }
    let dirty = dirty_groups_cte(grouped);
    if let (true, Some(branch)) = (grouped.found_by_root, grouped.branches.first()) {
        // A row goes only with its root's contribution; the others of its group stay rows.
        let types = branch.root.key.iter().enumerate();
        let typed: Vec<String> = types.map(|(n, (_, type_name))| format!("d.d{0}::{type_name} AS k{0}", n + 1)).collect();
        let rows = unnest_from(group_columns.len() + 1, typed.len());
        let keys = roots_columns(grouped);
        let same = same_key("c", "bound", &keys, &keys, &RowKey::Primary(Vec::new()));
        let roots = format!(
            "roots AS MATERIALIZED (\n  SELECT * FROM (SELECT DISTINCT {} FROM {rows}) AS bound\n  \
             WHERE NOT EXISTS (SELECT FROM {} AS c WHERE {same})\n)",
            typed.join(", "),
            contributions(grouped, places),
        );
        let among = same_key("t", "roots", plan.key.columns(), &keys, &plan.key);
        return merge::merge(&[dirty, roots, fresh], &target, Some(("roots", &among)));
    }
    let among = same_key("t", "dirty", plan.key.columns(), group_columns, &RowKey::Located(Vec::new()));
    merge::merge(&[dirty, fresh], &target, Some(("dirty", &among)))
}

/// The root's key columns in the contributions.
pub(super) fn roots_columns(grouped: &GroupedPlan) -> Vec<String> {
    let columns = grouped.branches.first().map_or(0, |branch| branch.root.key.len());
    (1..=columns).map(|n| format!("k{n}")).collect()
}

/// `roots AS (…)`: the roots that contribute to the groups of the CTE `dirty`.
pub(super) fn roots_of_groups(grouped: &GroupedPlan, places: &Places) -> String {
    let group_columns = &grouped.group_columns;
    format!(
        "roots AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {} AS c JOIN dirty ON {}\n)",
        quote::prefixed_list("c.", &roots_columns(grouped)),
        contributions(grouped, places),
        same_key("c", "dirty", group_columns, group_columns, &RowKey::Located(Vec::new())),
    )
}

/// `dirty AS (…)`: the bound groups with their types.
pub(super) fn dirty_groups_cte(grouped: &GroupedPlan) -> String {
    let typed: Vec<String> = grouped
        .group_types()
        .into_iter()
        .zip(grouped.group_domains())
        .zip(&grouped.group_columns)
        .enumerate()
        .map(|(n, ((type_name, is_domain), group))| {
            let (value, group) = (format!("d.d{}", n + 1), quote::identifier(group));
            if is_domain {
                // A subquery without a row is a NULL of the domain that nothing has checked.
                format!("(SELECT {value}::{type_name} WHERE {value} IS NOT NULL) AS {group}")
            } else {
                format!("{value}::{type_name} AS {group}")
            }
        })
        .collect();
    format!("dirty AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {}\n)", typed.join(", "), unnest(typed.len()))
}

/// Removes the rows of the groups bound to `$1::text[]`…, whatever their contributions are.
pub fn group_removal(plan: &Plan, grouped: &GroupedPlan, places: &Places) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let group_columns = &grouped.group_columns;
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates: false,
        report: plan.reports_keys,
    };
    let fresh = fresh_cte(&columns, &nothing(&table, &columns));
    if group_columns.is_empty() {
        return merge::merge(&[fresh], &target, None);
    }
    let located = RowKey::Located(Vec::new());
    let dirty = dirty_groups_cte(grouped);
    if grouped.found_by_root {
        let roots = roots_of_groups(grouped, places);
        let among = same_key("t", "roots", plan.key.columns(), &roots_columns(grouped), &plan.key);
        return merge::merge(&[dirty, roots, fresh], &target, Some(("roots", &among)));
    }
    let among = same_key("t", "dirty", plan.key.columns(), group_columns, &located);
    merge::merge(&[dirty, fresh], &target, Some(("dirty", &among)))
}

/// Of the groups bound to `$1::text[]`…, removes rows beyond one for each: nothing in the table keeps a group from having several, if
/// somebody writes them by hand. Returns how many. `None` where the table has a key, or rows are counted.
pub fn group_duplicates(plan: &Plan, grouped: &GroupedPlan, places: &Places) -> Option<String> {
    let RowKey::Located(key) = &plan.key else { return None };
    let table = quote::qualified(&places.schema, &plan.projection);
    let located = RowKey::Located(Vec::new());
    Some(format!(
        "WITH {dirty}, gone AS (
  DELETE FROM {table} AS t USING dirty
  WHERE {of_group} AND EXISTS (SELECT FROM {table} AS d WHERE {same} AND d.ctid < t.ctid)
  RETURNING 1
)
SELECT count(*) FROM gone",
        dirty = dirty_groups_cte(grouped),
        of_group = same_key("t", "dirty", key, &grouped.group_columns, &located),
        same = same_key("d", "t", key, key, &plan.key),
    ))
}

/// Where rows are found by the root's key: removes those whose root has no contribution.
pub fn group_leftovers(plan: &Plan, grouped: &GroupedPlan, places: &Places) -> Option<Merge> {
    let branch = grouped.branches.first().filter(|_| grouped.found_by_root)?;
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates: false,
        report: plan.reports_keys,
    };
    let keys: Vec<String> = (1..=branch.root.key.len()).map(|n| format!("k{n}")).collect();
    let selected: Vec<String> =
        plan.key.columns().iter().zip(&keys).map(|(column, key)| format!("l.{} AS {key}", quote::identifier(column))).collect();
    let kept = same_key("c", "l", &keys, plan.key.columns(), &plan.key);
    let roots = format!(
        "roots AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {table} AS l WHERE NOT EXISTS (SELECT FROM {} AS c WHERE {kept})\n)",
        selected.join(", "),
        contributions(grouped, places),
    );
    let among = same_key("t", "roots", plan.key.columns(), &keys, &plan.key);
    Some(merge::merge(&[roots, fresh_cte(&columns, &nothing(&table, &columns))], &target, Some(("roots", &among))))
}

/// Every group that has contributions or a row, as text columns.
pub fn group_keys(plan: &Plan, grouped: &GroupedPlan, places: &Places) -> String {
    let groups = texts("c.", &grouped.group_columns);
    let contributions = format!("SELECT {groups} FROM {} AS c", contributions(grouped, places));
    if grouped.found_by_root {
        // Rows without a contribution go by themselves: [`group_leftovers`].
        return format!("SELECT DISTINCT * FROM ({contributions}) AS known");
    }
    let table = quote::qualified(&places.schema, &plan.projection);
    format!("{contributions}\nUNION\nSELECT {} FROM {table} AS t", texts("t.", plan.key.columns()))
}

/// Groups from their contributions; `restriction` joins those that are to be computed.
fn recomputing_query(grouped: &GroupedPlan, places: &Places, restriction: Option<&str>) -> String {
    let alias = CONTRIBUTION_ALIAS;
    let group_columns = &grouped.group_columns;
    let distinct = match &grouped.form {
        GroupForm::First { .. } => format!("DISTINCT ON ({}) ", quote::prefixed_list(&format!("{alias}."), group_columns)),
        GroupForm::Aggregate { .. } | GroupForm::Rows { .. } => String::new(),
        GroupForm::Counted { count, once } => return counted_query(grouped, places, restriction, (count, *once)),
    };
    let from = contributions(grouped, places);
    let mut query = format!("SELECT {distinct}{}\nFROM {from} AS {alias}", grouped.select_list.join(", "));
    if let Some(restriction) = restriction {
        query.push_str(&format!("\nJOIN dirty ON {restriction}"));
    }
    match &grouped.form {
        GroupForm::Aggregate { having } => {
            if !group_columns.is_empty() {
                let by: Vec<&String> = group_columns.iter().chain(&grouped.dependent_columns).collect();
                query.push_str(&format!("\nGROUP BY {}", quote::prefixed_list(&format!("{alias}."), &by)));
            }
            if let Some(having) = having {
                query.push_str(&format!("\nHAVING {having}"));
            }
        }
        GroupForm::First { order } => {
            if !order.is_empty() {
                query.push_str(&format!("\nORDER BY {}", order.join(", ")));
            }
        }
        GroupForm::Rows { filter: None } | GroupForm::Counted { .. } => {}
        GroupForm::Rows { filter: Some(filter) } => {
            return format!(
                "SELECT {}\nFROM (\n{query}\n) AS {KEPT} ({})\nWHERE {filter}",
                (0..grouped.select_list.len()).map(|n| format!("{KEPT}.{}", kept_column(n))).collect::<Vec<_>>().join(", "),
                (0..grouped.select_list.len()).map(kept_column).collect::<Vec<_>>().join(", ")
            );
        }
    }
    query
}

/// The rows of a set operation: each as often as it says. How many rows that will be is a guess that decides how they are merged: a series
/// would be guessed at a thousand for each, and the table read whole.
fn counted_query(grouped: &GroupedPlan, places: &Places, restriction: Option<&str>, (count, once): (&str, bool)) -> String {
    let alias = CONTRIBUTION_ALIAS;
    let columns = quote::prefixed_list(&format!("{alias}."), &grouped.group_columns);
    let dirty = restriction.map(|restriction| format!("\n  JOIN dirty ON {restriction}")).unwrap_or_default();
    let each = if once {
        format!("WHERE {alias}.copies = 1")
    } else {
        format!("CROSS JOIN unnest(array_fill(1, ARRAY[{alias}.copies::integer]))")
    };
    format!(
        "SELECT {}
FROM (
  SELECT {columns}, {count} AS copies
  FROM {} AS {alias}{dirty}
  GROUP BY {columns}
) AS {alias}
{each}",
        grouped.select_list.join(", "),
        contributions(grouped, places)
    )
}

/// The contributions of all branches as a FROM item.
pub(super) fn contributions(grouped: &GroupedPlan, places: &Places) -> String {
    let states: Vec<&StateTable> = grouped.branches.iter().filter_map(|branch| branch.contributions.as_ref()).collect();
    let name = |state: &StateTable| quote::qualified(&places.state_schema, &state.name);
    match states.as_slice() {
        [state] => name(state),
        states => {
            let is_counted = matches!(grouped.form, GroupForm::Counted { .. });
            // The keys of different roots have nothing in common.
            let select = |(branch, state): (usize, &&StateTable)| {
                let columns: Vec<String> = state.columns.iter().filter(|column| !state.key.contains(column)).cloned().collect();
                let arm =
                    grouped.arms.get(branch).filter(|_| is_counted).map(|arm| format!(", {arm} AS {ARM}")).unwrap_or_default();
                format!("SELECT {}{arm} FROM {}", quote::list(&columns), name(state))
            };
            format!("(\n  {}\n)", states.iter().enumerate().map(select).collect::<Vec<_>>().join("\n  UNION ALL\n  "))
        }
    }
}
