//! The statements that keep accumulators.

use super::merge::same_key;
use super::parts::Places;
use crate::model::accumulators::{Accumulators, Input, Sum, Values};
use crate::model::plan::GroupedPlan;
use crate::model::quote;
use crate::model::row_key::{RowKey, locator};
use crate::model::state::StateTable;

fn located(state: &StateTable) -> RowKey {
    if state.located_by.is_empty() { RowKey::SingleRow } else { RowKey::Located(state.located_by.clone()) }
}

fn same(left: &str, right: &str, state: &StateTable) -> String {
    same_key(left, right, &state.located_by, &state.located_by, &located(state))
}

/// The columns of a group's row beside the grouping ones, in order: rows, inputs, numbers of distinct values.
fn measures(accumulators: &Accumulators, groups: usize) -> Vec<String> {
    accumulators.groups.columns.iter().skip(groups).cloned().collect()
}

/// CTEs that follow one called `moved`, with the columns of a contribution and `sign`: -1 for what it was, 1 for what it is. They move
/// the accumulators accordingly.
pub(crate) fn move_accumulators(grouped: &GroupedPlan, accumulators: &Accumulators, places: &Places) -> String {
    let groups = &grouped.group_columns;
    let mut ctes = Vec::new();
    for (index, values) in accumulators.values.iter().enumerate() {
        ctes.push(move_values(values, index + 1, groups, places));
    }
    let state = &accumulators.groups;
    let table = quote::qualified(&places.state_schema, &state.name);
    let measures = measures(accumulators, groups.len());
    let inputs: Vec<String> =
        std::iter::once("sum(c.sign)".to_owned()).chain(accumulators.inputs.iter().flat_map(contributes)).collect();
    let distinct: Vec<String> = (1..=accumulators.values.len())
        .map(|n| {
            let same = same_key("v", "d", groups, groups, &located(state));
            format!("COALESCE((SELECT sum((v.after > 0)::int - (v.before > 0)::int) FROM value_delta_{n} AS v WHERE {same}), 0)")
        })
        .collect();
    let group_list = quote::prefixed_list("c.", groups);
    let by = if groups.is_empty() { String::new() } else { format!(" GROUP BY {group_list}") };
    let listed: Vec<String> = groups
        .iter()
        .map(|group| format!("c.{0} AS {0}", quote::identifier(group)))
        .chain(inputs.iter().zip(&measures).map(|(expression, name)| format!("{expression} AS {}", quote::identifier(name))))
        .collect();
    let summed: Vec<String> = measures.iter().take(inputs.len()).map(|name| format!("d.{}", quote::identifier(name))).collect();
    ctes.push(format!("sums AS MATERIALIZED (\n  SELECT {}\n  FROM moved AS c{by}\n)", listed.join(", ")));
    let delta: Vec<String> = groups
        .iter()
        .map(|group| format!("d.{}", quote::identifier(group)))
        .chain(summed)
        .chain(
            distinct
                .iter()
                .zip(measures.iter().skip(inputs.len()))
                .map(|(text, name)| format!("{text} AS {}", quote::identifier(name))),
        )
        .collect();
    ctes.push(format!("delta AS MATERIALIZED (\n  SELECT {} FROM sums AS d WHERE d.n IS NOT NULL\n)", delta.join(", ")));
    let matched = same("t", "delta", state);
    let assignments: Vec<String> =
        measures.iter().map(|name| quote::identifier(name)).map(|name| format!("{name} = t.{name} + delta.{name}")).collect();
    ctes.push(format!(
        "group_gone AS (\n  DELETE FROM {table} AS t USING delta WHERE {matched} AND t.n + delta.n = 0\n), group_moved AS (\n  \
         UPDATE {table} AS t SET {}\n  FROM delta WHERE {matched} AND t.n + delta.n <> 0\n), group_added AS (\n  \
         INSERT INTO {table} ({columns})\n  SELECT {delta_columns} FROM delta\n  \
         WHERE delta.n <> 0 AND NOT EXISTS (SELECT FROM {table} AS t WHERE {matched})\n)",
        assignments.join(", "),
        columns = quote::list(&state.columns),
        delta_columns = quote::prefixed_list("delta.", &state.columns),
    ));
    ctes.join(", ")
}

fn move_values(values: &Values, number: usize, groups: &[String], places: &Places) -> String {
    let state = &values.state;
    let table = quote::qualified(&places.state_schema, &state.name);
    let matched = same("t", "v", state);
    let group_columns: Vec<String> = groups.iter().map(|group| format!("c.{}", quote::identifier(group))).collect();
    let listed: Vec<String> =
        group_columns.iter().cloned().chain([format!("{} AS v", values.expression), "sum(c.sign) AS n".to_owned()]).collect();
    let by: Vec<String> = group_columns.iter().cloned().chain([values.expression.clone()]).collect();
    let outer: Vec<String> = groups.iter().map(|group| format!("v.{}", quote::identifier(group))).collect();
    let outer: Vec<String> = outer
        .into_iter()
        .chain(["v.v".to_owned(), "COALESCE(t.n, 0) AS before".to_owned(), "COALESCE(t.n, 0) + v.n AS after".to_owned()])
        .collect();
    let kept: Vec<String> = groups
        .iter()
        .map(|group| format!("v.{}", quote::identifier(group)))
        .chain(["v.v".to_owned(), "v.after".to_owned()])
        .collect();
    format!(
        "value_delta_{number} AS MATERIALIZED (
  SELECT {outer}
  FROM (SELECT {listed} FROM moved AS c WHERE num_nonnulls({expression}) = 1 GROUP BY {by}) AS v
  LEFT JOIN {table} AS t ON {matched}
  WHERE v.n <> 0
), value_gone_{number} AS (
  DELETE FROM {table} AS t USING value_delta_{number} AS v WHERE {matched} AND v.after = 0
), value_moved_{number} AS (
  UPDATE {table} AS t SET n = v.after FROM value_delta_{number} AS v WHERE {matched} AND v.after <> 0
), value_added_{number} AS (
  INSERT INTO {table} ({columns}) SELECT {kept} FROM value_delta_{number} AS v WHERE v.before = 0
)",
        outer = outer.join(", "),
        listed = listed.join(", "),
        expression = values.expression,
        by = by.join(", "),
        columns = quote::list(&state.columns),
        kept = kept.join(", "),
    )
}

/// Fills the accumulators from the contributions, all anew.
pub fn fill_accumulators(grouped: &GroupedPlan, accumulators: &Accumulators, places: &Places) -> Vec<String> {
    let Some(contributions) = grouped.branches.first().and_then(|branch| branch.contributions.as_ref()) else {
        return Vec::new();
    };
    let source = quote::qualified(&places.state_schema, &contributions.name);
    let tables: Vec<String> = std::iter::once(&accumulators.groups)
        .chain(accumulators.values.iter().map(|values| &values.state))
        .map(|state| quote::qualified(&places.state_schema, &state.name))
        .collect();
    // One statement serves both: everything that is, is new.
    let moved = format!("WITH moved AS (\n  SELECT 1 AS sign, t.* FROM {source} AS t\n)");
    // TRUNCATE would wait for whoever reads them, and show them empty to earlier snapshots: a verification does both.
    let emptied = tables.iter().map(|table| format!("DELETE FROM {table}"));
    emptied.chain([format!("{moved}, {}\nSELECT 1", move_accumulators(grouped, accumulators, places))]).collect()
}

/// The indexes by which the first and the last value of a group are found.
pub fn accumulator_indexes(grouped: &GroupedPlan, accumulators: &Accumulators, schema: &str) -> Vec<String> {
    let Some(contributions) = grouped.branches.first().and_then(|branch| branch.contributions.as_ref()) else {
        return Vec::new();
    };
    let table = quote::qualified(schema, &contributions.name);
    let index = |expression: &String| {
        let bare = expression.replace("c.", "");
        if grouped.group_columns.is_empty() {
            format!("CREATE INDEX ON {table} (({bare}))")
        } else {
            format!("CREATE INDEX ON {table} (({}), ({bare}))", locator("", &grouped.group_columns))
        }
    };
    let scales = accumulators.inputs.iter().filter_map(|input| match input.sum {
        Some(Sum::Unscaled(values)) if !grouped.group_columns.is_empty() => {
            let table = quote::qualified(schema, &accumulators.values[values].state.name);
            Some(format!("CREATE INDEX ON {table} (({}), v)", locator("", &grouped.group_columns)))
        }
        Some(Sum::Unscaled(_) | Sum::Integer { .. } | Sum::Scaled(_)) | None => None,
    });
    accumulators.ordered.iter().map(index).chain(scales).collect()
}

/// The query of groups' rows from the accumulators; `restriction` joins what is to be computed.
pub(crate) fn group_query(
    grouped: &GroupedPlan,
    accumulators: &Accumulators,
    places: &Places,
    restriction: Option<&str>,
) -> String {
    let table = quote::qualified(&places.state_schema, &accumulators.groups.name);
    let groups = &grouped.group_columns;
    let from = if groups.is_empty() {
        // One row, whether there is anything or not.
        format!("(SELECT) AS one LEFT JOIN {table} AS c ON true")
    } else {
        format!("{table} AS c")
    };
    let mut query = format!("SELECT {}\nFROM {from}", accumulators.select_list.join(", "));
    if let Some(restriction) = restriction {
        query.push_str(&format!("\nJOIN dirty ON {restriction}"));
    }
    if let Some(having) = &accumulators.having {
        query.push_str(&format!("\nWHERE {having}"));
    }
    let within = |alias: &str, columns: &[String]| same_key(alias, "c", columns, columns, &RowKey::Located(Vec::new()));
    if let Some(contributions) = grouped.branches.first().and_then(|branch| branch.contributions.as_ref()) {
        let name = quote::qualified(&places.state_schema, &contributions.name);
        query = place(&query, "\"lockstep:contributions\" x", &name, "x", &within("x", groups));
    }
    for (index, values) in accumulators.values.iter().enumerate() {
        let name = quote::qualified(&places.state_schema, &values.state.name);
        query = place(&query, &format!("\"lockstep:values_{}\" v", index + 1), &name, "v", &within("v", groups));
    }
    query
}

/// Puts a table's name, and the condition that its rows are of the group at hand, in the place of a FROM item.
fn place(query: &str, item: &str, table: &str, alias: &str, condition: &str) -> String {
    // The item is followed by the end of the subquery, or by LIMIT.
    query.replace(item, &format!("{table} AS {alias} WHERE {condition}"))
}

/// What one contribution adds to the columns, in the same order; `sign` is 1 or -1.
pub(super) fn contributes(input: &Input) -> Vec<String> {
    let e = &input.expression;
    let count = |condition: String| format!("COALESCE(sum(c.sign) FILTER (WHERE {condition}), 0)");
    let mut all = vec![count(format!("num_nonnulls({e}) = 1"))];
    match input.sum {
        None => {}
        Some(Sum::Integer { .. }) => all.push(format!("COALESCE(sum(c.sign * ({e})::numeric), 0)")),
        Some(Sum::Scaled(_) | Sum::Unscaled(_)) => {
            all.push(format!("COALESCE(sum(c.sign * ({e})) FILTER (WHERE ({e}) NOT IN ('NaN', 'Infinity', '-Infinity')), 0)"));
            all.extend(["NaN", "Infinity", "-Infinity"].map(|special| count(format!("({e}) = '{special}'"))));
        }
    }
    all
}
