//! Writing around rows that a unique index or an exclusion constraint of the read model refuses: fresh rows come into a temporary table,
//! what clashes is found there by the indexes' own expressions, and the rest is written.

use super::groups::{contributions, dirty_groups_cte, group_merge_from, group_query, roots_columns, roots_of_groups};
use super::merge::{Merge, same_key};
use super::parts::{Fresh, Places, TracedKeys, dirty_cte, fresh_cte, names};
use super::rows::{row_merge, row_query, whole_merge, whole_query};
use crate::model::plan::{GroupedPlan, Maintenance, Plan};
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::model::trace::unnest;

/// An index that refuses rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusingIndex {
    /// Its name.
    pub name: String,
    /// Its key columns: expressions over the table's columns, with their collations.
    pub expressions: Vec<String>,
    /// For each, the operator under which two values clash, as `OPERATOR(schema.=)`.
    pub operators: Vec<String>,
    /// Which rows it holds; all if `None`.
    pub predicate: Option<String>,
    /// Whether NULL clashes with NULL.
    pub nulls_clash: bool,
}

/// The statements of a guarded write. Keys are those of root rows, or of groups, or of the rows where all of a projection is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Makes the temporary table if the session has none, and empties it.
    pub prepare: String,
    /// Fills it with the fresh rows of the bound keys, and with all.
    pub fill: [String; 2],
    /// Removes the fresh rows of the keys bound to `$1::text[]`….
    pub take_out: String,
    /// Puts the rows that the table holds for those keys in their place.
    pub put_back: String,
    /// Writes the difference between the temporary table and the projection's: for bound keys, and for all.
    pub merge: [Merge; 2],
    /// How many text arrays `fill` takes for bound keys: where rows are found by the root's key, the roots' are for the merge only.
    pub parameters: usize,
    table: String,
    name: String,
    stage: String,
    /// The key of a row, as an array of texts.
    node: String,
    /// The CTEs of the keys that are bound, the last of them and how a row belongs to it.
    dirty: String,
    among: (&'static str, String),
}

/// The statements of a guarded write; `None` where no key tells rows apart. `stage` is the temporary table's name, qualified. `fresh` is
/// where fresh rows come from.
pub fn guard(plan: &Plan, places: &Places, stage: &str, fresh: &Fresh) -> Option<Guard> {
    let table = quote::qualified(&places.schema, &plan.projection);
    let alias = quote::identifier(&plan.projection);
    let columns = names(plan);
    let staged = Fresh::Staged(stage.to_owned());
    let fill = |ctes: Vec<String>, query: &str| {
        let ctes = ctes.into_iter().chain([fresh_cte(&columns, query)]).collect::<Vec<_>>().join(", ");
        format!("WITH {ctes}\nINSERT INTO {stage} ({0})\nSELECT {0} FROM fresh", quote::list(&columns))
    };
    let (dirty, node, among, fill, merge, parameters) = match &plan.maintenance {
        Maintenance::Row(row) => {
            let owner = if plan.owner.is_empty() { plan.key.columns() } else { &plan.owner };
            let keys: Vec<String> = (1..=owner.len()).map(|n| format!("k{n}")).collect();
            let by = if plan.owner.is_empty() { plan.key.clone() } else { RowKey::Primary(Vec::new()) };
            let dirty = dirty_cte(&row.root);
            // As the stream writes them.
            let texts: Vec<String> =
                owner.iter().map(|column| format!("concat({alias}.{})", quote::identifier(column))).collect();
            (
                dirty.clone(),
                format!("ARRAY[{}]", texts.join(", ")),
                ("dirty", same_key(&alias, "dirty", owner, &keys, &by)),
                [TracedKeys::Bound, TracedKeys::Everything].map(|keys| {
                    let ctes = if keys == TracedKeys::Bound { vec![dirty.clone()] } else { Vec::new() };
                    fill(ctes, &row_query(plan, row, places, keys, fresh))
                }),
                [TracedKeys::Bound, TracedKeys::Everything].map(|keys| row_merge(plan, row, places, keys, &staged)),
                row.root.key.len(),
            )
        }
        Maintenance::Grouped(grouped) if grouped.group_columns.is_empty() => return None,
        Maintenance::Grouped(grouped) => {
            let dirty = dirty_groups_cte(grouped);
            let (all, among) = rows_of_groups(plan, grouped, places, &alias, &dirty);
            (
                all,
                group_node(plan, grouped, places, &alias),
                among,
                [TracedKeys::Bound, TracedKeys::Everything].map(|keys| {
                    let ctes = if keys == TracedKeys::Bound { vec![dirty.clone()] } else { Vec::new() };
                    fill(ctes, &group_query(grouped, places, keys))
                }),
                [TracedKeys::Bound, TracedKeys::Everything].map(|keys| group_merge_from(plan, grouped, places, keys, &staged)),
                grouped.group_columns.len(),
            )
        }
        Maintenance::Whole(_) => {
            let key = match &plan.key {
                RowKey::Primary(key) | RowKey::Located(key) if !key.is_empty() => key,
                RowKey::Primary(_) | RowKey::Located(_) | RowKey::SingleRow | RowKey::Copies { .. } => return None,
            };
            let query = whole_query(plan, places, fresh);
            let merge = whole_merge(plan, places, &staged);
            (
                dirty_rows_cte(plan, key),
                format!("ARRAY[{}]", texts(&alias, key)),
                ("dirty", same_key(&alias, "dirty", key, key, &plan.key)),
                [fill(Vec::new(), &query), fill(Vec::new(), &query)],
                [merge.clone(), merge],
                0,
            )
        }
    };
    let listed = quote::list(&columns);
    let taken = quote::prefixed_list(&format!("{alias}."), &columns);
    let (item, belongs) = &among;
    Some(Guard {
        prepare: format!(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {listed} FROM {table} WITH NO DATA; DELETE FROM {stage}",
            stage.trim_start_matches("pg_temp."),
        ),
        fill,
        take_out: format!("WITH {dirty}\nDELETE FROM {stage} AS {alias} USING {item} WHERE {belongs}"),
        put_back: format!(
            "WITH {dirty}\nINSERT INTO {stage} ({listed})\nSELECT {taken} FROM {table} AS {alias} JOIN {item} ON {belongs}"
        ),
        merge,
        parameters,
        name: alias,
        stage: stage.to_owned(),
        node,
        among,
        dirty,
        table,
    })
}

/// The keys of rows that are to be set aside, where all of a projection is computed.
fn dirty_rows_cte(plan: &Plan, key: &[String]) -> String {
    let type_of =
        |name: &String| plan.columns.iter().find(|column| column.name == *name).map_or("text", |column| &column.type_name);
    let typed: Vec<String> =
        (1..).zip(key).map(|(n, column)| format!("d.d{n}::{} AS {}", type_of(column), quote::identifier(column))).collect();
    format!("dirty AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {}\n)", typed.join(", "), unnest(key.len()))
}

fn texts(alias: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{alias}.{}::text", quote::identifier(column))).collect::<Vec<_>>().join(", ")
}

/// The group that a row belongs to, as an array of texts; empty if its root has none any more.
fn group_node(plan: &Plan, grouped: &GroupedPlan, places: &Places, alias: &str) -> String {
    if !grouped.found_by_root {
        return format!("ARRAY[{}]", texts(alias, plan.key.columns()));
    }
    format!(
        "coalesce((SELECT ARRAY[{}] FROM {} AS c WHERE {} LIMIT 1), '{{}}'::text[])",
        texts("c", &grouped.group_columns),
        contributions(grouped, places),
        same_key("c", alias, &roots_columns(grouped), plan.key.columns(), &RowKey::Primary(Vec::new())),
    )
}

/// The CTEs of the groups that are bound, and how a row belongs to them: by its own columns, or by its root's contribution.
fn rows_of_groups(
    plan: &Plan,
    grouped: &GroupedPlan,
    places: &Places,
    alias: &str,
    dirty: &str,
) -> (String, (&'static str, String)) {
    let located = RowKey::Located(Vec::new());
    let group_columns = &grouped.group_columns;
    if !grouped.found_by_root {
        return (dirty.to_owned(), ("dirty", same_key(alias, "dirty", plan.key.columns(), group_columns, &located)));
    }
    let roots = roots_of_groups(grouped, places);
    (format!("{dirty}, {roots}"), ("roots", same_key(alias, "roots", plan.key.columns(), &roots_columns(grouped), &plan.key)))
}

impl Guard {
    /// Which rows clash by these indexes. One row a pair: the index's number; whether it is two fresh rows or a fresh one and one that the
    /// table holds; the key of either, as arrays of texts; of a row that the table holds, whether it is refreshed too; of fresh ones, which of
    /// them the table holds with the same value already. Of pairs of fresh rows at most `pairs_max` are told for each index.
    pub fn clashes(&self, indexes: &[RefusingIndex], bound: bool, pairs_max: usize) -> String {
        let Self { table, name, stage, node, .. } = self;
        let (item, belongs) = &self.among;
        let held =
            format!("held AS MATERIALIZED (\n  SELECT {name}.ctid AS place FROM {table} AS {name} JOIN {item} ON {belongs}\n)");
        let mut ctes = if bound { vec![self.dirty.clone(), held] } else { Vec::new() };
        let mut selects = Vec::new();
        for (number, index) in indexes.iter().enumerate() {
            let values: Vec<String> = (1..).zip(&index.expressions).map(|(n, value)| format!("{value} AS v{n}")).collect();
            let values = values.join(", ");
            let holds = index.predicate.as_ref().map(|predicate| format!(" WHERE {predicate}")).unwrap_or_default();
            let fresh = format!("f{number}");
            ctes.push(format!(
                "{fresh} AS MATERIALIZED (\n  SELECT {node} AS node, {name}.ctid AS place, {values}\n  FROM {stage} AS {name}{holds}\n)"
            ));
            let held = format!("(SELECT {node} AS node, {name}.ctid AS place, {values}\n  FROM {table} AS {name}{holds}) AS t");
            let matches = |a: &str, b: &str| index.matches(a, b);
            // A row whose root is gone goes, too.
            let refreshed = if bound { "t.place IN (SELECT place FROM held) OR t.node = '{}'" } else { "true" };
            selects.push(format!(
                "SELECT {number} AS number, false AS both_fresh, f.node AS one, t.node AS other, false AS one_stands, {refreshed} AS flag\n\
                 FROM {fresh} AS f JOIN {held} ON {} WHERE f.node <> t.node",
                matches("t", "f")
            ));
            let stands =
                |fresh: &str| format!("EXISTS (SELECT FROM {held} WHERE {} AND t.node = {fresh}.node)", matches("t", fresh));
            selects.push(format!(
                "(SELECT {number}, true, f.node, g.node, {}, {}\nFROM {fresh} AS f JOIN {fresh} AS g ON {} WHERE f.place < g.place LIMIT {pairs_max})",
                stands("f"),
                stands("g"),
                matches("f", "g")
            ));
        }
        format!("WITH {}\n{}", ctes.join(", "), selects.join("\nUNION ALL\n"))
    }
}

impl RefusingIndex {
    fn matches(&self, one: &str, other: &str) -> String {
        let pair = |(n, operator): (usize, &String)| {
            let same = format!("{one}.v{n} {operator} {other}.v{n}");
            if self.nulls_clash { format!("({same} OR ({one}.v{n} IS NULL AND {other}.v{n} IS NULL))") } else { same }
        };
        (1..).zip(&self.operators).map(pair).collect::<Vec<_>>().join(" AND ")
    }
}
