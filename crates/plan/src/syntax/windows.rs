//! Window functions and the definitions that they refer to.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt, WindowDef};

use super::text::print_expression;
use super::walk::children;
use crate::model::obstacle::{Obstacle, Outcome};

/// Whether a window function is called.
pub(crate) fn has_window(select: &SelectStmt) -> Outcome<bool> {
    Ok(!windows(select)?.is_empty())
}

/// Where the first window function is called, as the parser counts.
pub(crate) fn place_of_window(select: &SelectStmt) -> Option<i32> {
    windows(select).ok()?.first().map(|(_, location)| *location)
}

/// The window definitions that calls refer to, with names looked up, and where the calls stand.
fn windows(select: &SelectStmt) -> Outcome<Vec<(WindowDef, i32)>> {
    let mut found = Vec::new();
    for node in select.target_list.iter().chain(&select.sort_clause).chain(&select.distinct_clause) {
        collect_windows(&mut node.clone(), select, &mut found)?;
    }
    Ok(found)
}

fn collect_windows(node: &mut Node, select: &SelectStmt, found: &mut Vec<(WindowDef, i32)>) -> Outcome<()> {
    if let Some(NodeEnum::FuncCall(call)) = &node.node
        && let Some(over) = &call.over
    {
        found.push((definition(over, select), call.location));
    }
    children(node)?.into_iter().try_for_each(|child| collect_windows(child, select, found))
}

/// The definition behind `OVER w` and `OVER (w …)`: what is not said is inherited, PARTITION BY always (the rules of SELECT's WINDOW
/// clause in PostgreSQL's documentation).
fn definition(over: &WindowDef, select: &SelectStmt) -> WindowDef {
    let named = |name: &str| {
        select.window_clause.iter().find_map(|node| match &node.node {
            Some(NodeEnum::WindowDef(window)) if window.name == name => Some(definition(&unnamed(window), select)),
            _ => None,
        })
    };
    if !over.name.is_empty() {
        return named(&over.name).unwrap_or_else(|| over.clone());
    }
    let Some(parent) = (!over.refname.is_empty()).then(|| named(&over.refname)).flatten() else { return over.clone() };
    let order_clause = if over.order_clause.is_empty() { parent.order_clause } else { over.order_clause.clone() };
    WindowDef { refname: String::new(), partition_clause: parent.partition_clause, order_clause, ..over.clone() }
}

fn unnamed(window: &WindowDef) -> WindowDef {
    WindowDef { name: String::new(), ..window.clone() }
}

/// A window definition without a name.
pub(crate) fn written_out(over: &WindowDef, select: &SelectStmt) -> WindowDef {
    WindowDef { name: String::new(), refname: String::new(), ..definition(over, select) }
}

/// The expressions by which every window of the SELECT is partitioned; an obstacle at the window that leaves none.
pub(crate) fn common_partition(select: &SelectStmt) -> Outcome<Vec<Node>> {
    let windows = windows(select)?;
    if let Some((_, location)) = windows.iter().find(|(window, _)| window.partition_clause.is_empty()) {
        return Err(Obstacle::at("a window function looks over all rows, without PARTITION BY", *location)
            .instead("add PARTITION BY; a total of all rows can be a single value, which is kept: (SELECT sum(…) FROM …)"));
    }
    let mut windows = windows.into_iter();
    let Some((first, _)) = windows.next() else { return Ok(Vec::new()) };
    let mut common = first.partition_clause;
    for (window, location) in windows {
        let texts: Vec<String> = window.partition_clause.iter().map(print_expression).collect::<Result<_, _>>()?;
        let mut kept = Vec::new();
        for node in common {
            if texts.contains(&print_expression(&node)?) {
                kept.push(node);
            }
        }
        if kept.is_empty() {
            return Err(Obstacle::at("a window function has another partition than those before it", location)
                .instead("compute each in a subquery in FROM of its own, and join those by the key"));
        }
        common = kept;
    }
    Ok(common)
}
