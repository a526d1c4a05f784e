//! What hidden tables must hold, as queries: verification compares them with what is there.

use super::accumulate::contributes;
use super::merge::same_key;
use super::parts::Places;
use crate::model::accumulators::{Accumulators, Values};
use crate::model::plan::GroupedPlan;
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::model::state::StateTable;
use crate::model::trace::LinkTrace;

/// A hidden table and the query that it must equal, both as FROM items in parentheses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenClaim {
    /// What is there.
    pub held: String,
    /// What must be there.
    pub definition: String,
    /// The columns of both.
    pub columns: Vec<String>,
    /// How many of them, from the left, identify a row, or at least what a repair refreshes.
    pub identity: usize,
}

/// A link: the values of those rows that matter.
pub fn link_claim(link: &LinkTrace, places: &Places) -> HiddenClaim {
    let table = quote::qualified(&places.state_schema, &link.state.name);
    let filter: Vec<String> = link.filter.iter().map(|filter| format!("({filter})")).collect();
    let filter = if filter.is_empty() { String::new() } else { format!("\nWHERE {}", filter.join(" AND ")) };
    let definition = format!("{}{filter}", link.state.definition);
    HiddenClaim {
        held: format!("(SELECT {} FROM {table})", quote::list(&link.state.columns)),
        // What any row of a hash is joined by, each once as it looks.
        definition: if link.located {
            let columns = quote::list(&link.state.columns);
            let texts = link.state.columns.iter().map(|column| format!("{}::text", quote::identifier(column)));
            format!("SELECT DISTINCT ON ({}) {columns} FROM (\n{definition}\n) AS defined", texts.collect::<Vec<_>>().join(", "))
        } else {
            definition
        },
        columns: link.state.columns.clone(),
        identity: link.key_columns,
    }
}

/// The contributions of a branch.
pub fn contribution_claim(state: &StateTable, definition: &str, places: &Places) -> HiddenClaim {
    let table = quote::qualified(&places.state_schema, &state.name);
    HiddenClaim {
        held: format!("(SELECT {} FROM {table})", quote::list(&state.columns)),
        definition: format!("SELECT {} FROM (\n{definition}\n) AS defined ({0})", quote::list(&state.columns)),
        columns: state.columns.clone(),
        identity: state.key.len(),
    }
}

/// Accumulators, as the contributions have them. All of it is on the target.
pub fn accumulator_claims(grouped: &GroupedPlan, accumulators: &Accumulators, places: &Places) -> Vec<HiddenClaim> {
    let Some(contributions) = grouped.branches.first().and_then(|branch| branch.contributions.as_ref()) else {
        return Vec::new();
    };
    let from = format!("(SELECT 1 AS sign, t.* FROM {} AS t) AS c", quote::qualified(&places.state_schema, &contributions.name));
    let mut claims = vec![groups_claim(grouped, accumulators, places, &from)];
    claims.extend(accumulators.values.iter().map(|values| values_claim(grouped, values, places, &from)));
    claims
}

fn groups_claim(grouped: &GroupedPlan, accumulators: &Accumulators, places: &Places, from: &str) -> HiddenClaim {
    let groups = &grouped.group_columns;
    let state = &accumulators.groups;
    let measures: Vec<String> = std::iter::once("sum(c.sign)".to_owned())
        .chain(accumulators.inputs.iter().flat_map(contributes))
        .chain(accumulators.values.iter().map(|values| {
            let table = quote::qualified(&places.state_schema, &values.state.name);
            let located = if groups.is_empty() { RowKey::SingleRow } else { RowKey::Located(groups.clone()) };
            format!("(SELECT count(*) FROM {table} AS v WHERE {})", same_key("v", "c", groups, groups, &located))
        }))
        .collect();
    let listed: Vec<String> = groups
        .iter()
        .map(|group| format!("c.{}", quote::identifier(group)))
        .chain(measures.iter().zip(state.types.iter().skip(groups.len())).map(|(measure, type_name)| plain(measure, type_name)))
        .collect();
    let held: Vec<String> = state
        .columns
        .iter()
        .zip(&state.types)
        .enumerate()
        .map(|(n, (column, type_name))| {
            let column = quote::identifier(column);
            if n < groups.len() { column } else { format!("{} AS {column}", plain(&column, type_name)) }
        })
        .collect();
    let by = if groups.is_empty() { String::new() } else { format!("\nGROUP BY {}", quote::prefixed_list("c.", groups)) };
    let columns = quote::list(&state.columns);
    HiddenClaim {
        held: format!("(SELECT {} FROM {})", held.join(", "), quote::qualified(&places.state_schema, &state.name)),
        definition: format!(
            "SELECT {columns} FROM (\n  SELECT {}\n  FROM {from}{by}\n  HAVING count(*) > 0\n) AS defined ({columns})",
            listed.join(", ")
        ),
        columns: state.columns.clone(),
        identity: groups.len(),
    }
}

/// How often each value occurs, or, where equal values may look different, how many there are and how often they occur.
fn values_claim(grouped: &GroupedPlan, values: &Values, places: &Places, from: &str) -> HiddenClaim {
    /// Types of which equal values look alike.
    const ALIKE: [&str; 12] = [
        "text",
        "integer",
        "bigint",
        "smallint",
        "numeric",
        "boolean",
        "date",
        "uuid",
        "oid",
        "timestamp without time zone",
        "timestamp with time zone",
        "bytea",
    ];
    let groups = &grouped.group_columns;
    let table = quote::qualified(&places.state_schema, &values.state.name);
    let value_type = values.state.types.get(groups.len()).map_or("", String::as_str);
    let listed = |prefix: &str| groups.iter().map(|group| format!("{prefix}{}", quote::identifier(group))).collect::<Vec<_>>();
    let mut columns = groups.clone();
    columns.extend(["v".to_owned(), "n".to_owned()]);
    let names = quote::list(&columns);
    let counted = format!(
        "SELECT {}\n  FROM {from}\n  WHERE num_nonnulls({1}) = 1\n  GROUP BY {2}",
        [listed("c."), vec![values.expression.clone(), "count(*)".to_owned()]].concat().join(", "),
        values.expression,
        [listed("c."), vec![values.expression.clone()]].concat().join(", "),
    );
    let alike = ALIKE.contains(&value_type);
    let measures = if alike { [plain("v", value_type), "n".to_owned()] } else { ["count(v)".to_owned(), "sum(n)".to_owned()] };
    let by = if alike || groups.is_empty() { String::new() } else { format!(" GROUP BY {}", quote::list(groups)) };
    let list = [listed(""), measures.to_vec()].concat().join(", ");
    let over = |item: &str| format!("SELECT {names} FROM (SELECT {list} FROM {item}{by}) AS summed ({names})");
    HiddenClaim {
        held: format!("({})", over(&table)),
        definition: over(&format!("(\n  {counted}\n) AS counted ({names})")),
        columns,
        identity: groups.len() + usize::from(alike),
    }
}

/// An expression without what does not count: sums that are moved keep decimals that a sum made anew has not.
fn plain(expression: &str, type_name: &str) -> String {
    if type_name.starts_with("numeric") { format!("trim_scale({expression})") } else { expression.to_owned() }
}
