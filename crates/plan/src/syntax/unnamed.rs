//! Columns without a name: PostgreSQL calls them `?column?`, and nobody means that.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt};

use super::text::{self, print_expression, string_of, with_large_stack};
use super::walk::children;
use crate::model::quote;

/// What PostgreSQL calls a column for which it finds no name (`FigureColname` in `parse_target.c`).
const NO_NAME: &str = "?column?";

/// The expressions of a query's columns that have no name, each with a name that it could be given: `upper(a) || b AS a`.
pub fn unnamed_columns(sql: &str) -> Vec<String> {
    with_large_stack(|| text::parse_select(sql).map(|select| suggestions(&select)).unwrap_or_default()).unwrap_or_default()
}

fn suggestions(select: &SelectStmt) -> Vec<String> {
    let mut first = select;
    while let (true, Some(left)) = (text::is_set_operation(first), first.larg.as_deref()) {
        first = left;
    }
    let target = |node: &Node| match &node.node {
        Some(NodeEnum::ResTarget(target)) => Some((target.name.clone(), target.val.as_deref()?.clone())),
        Some(_) | None => None,
    };
    let targets: Vec<(String, Node)> = first.target_list.iter().filter_map(target).collect();
    let mut taken: Vec<String> = targets
        .iter()
        .map(|(name, value)| if name.is_empty() { last_column(&mut value.clone()).unwrap_or_default() } else { name.clone() })
        .collect();
    let mut found = Vec::new();
    for (_, value) in targets.iter().filter(|(name, _)| name == NO_NAME) {
        let stem = last_column(&mut value.clone()).unwrap_or_else(|| "value".to_owned());
        let free = (1..=taken.len() + 1)
            .map(|n| if n == 1 { stem.clone() } else { format!("{stem}_{n}") })
            .find(|name| !taken.contains(name));
        let name = free.unwrap_or(stem);
        if let Ok(text) = print_expression(value) {
            // After AS keywords are names, too.
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            found.push(format!("{text} AS {}", if plain { name.clone() } else { quote::identifier(&name) }));
        }
        taken.push(name);
    }
    found
}

/// The last column that an expression names.
fn last_column(node: &mut Node) -> Option<String> {
    if let Some(NodeEnum::ColumnRef(reference)) = &node.node {
        return reference.fields.last().and_then(string_of).map(str::to_owned);
    }
    children(node).ok()?.into_iter().rev().find_map(last_column)
}

#[cfg(test)]
mod tests {
    use super::unnamed_columns;

    #[test]
    fn a_name_is_offered_that_no_other_column_has() {
        let sql = "SELECT o.amount, o.amount * 2 AS \"?column?\", 1 AS \"?column?\", o.id AS value FROM o";
        assert_eq!(unnamed_columns(sql), ["o.amount * 2 AS amount_2", "1 AS value_2"]);
        assert!(unnamed_columns("SELECT o.amount, upper(o.x) FROM o").is_empty());
    }
}
