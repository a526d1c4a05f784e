//! Splitting an aggregation in two: contributions (one narrow row for each root row, before aggregation) and the user's own select
//! list and HAVING over them.
//!
//! The rule: `SELECT f(g, agg(a)) FROM … WHERE w GROUP BY g` equals `SELECT f(g, agg(a)) FROM contributions GROUP BY g` where
//! `contributions = SELECT k, g, a FROM … WHERE w`, k being the root's identity. A change of root row k replaces the
//! contribution k; the groups that it left and joined are recomputed by PostgreSQL's own aggregates. Hence every aggregate
//! works, and none needs an inverse.

use pg_query::NodeEnum;
use pg_query::protobuf::{ColumnRef, FuncCall, Node, SelectStmt, WindowDef};

use crate::facts::{Function, FunctionKind};
use crate::grouped::Grouping;
use crate::obstacle::{Obstacle, Outcome};
use crate::plan::GroupForm;
use crate::syntax::{children, column_reference, for_each_subquery, name_parts, print_expression, string_of, target_expression};

/// The alias of the contributions in the group query.
pub(crate) const CONTRIBUTION_ALIAS: &str = "c";

/// The column of group expression `index`, counted from 0.
pub(crate) fn group_column(index: usize) -> String {
    format!("g{}", index + 1)
}

/// The column of aggregate argument `index`, counted from 0.
pub(crate) fn argument_column(index: usize) -> String {
    format!("a{}", index + 1)
}

/// Whether the query aggregates at all.
pub(crate) fn is_aggregate(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    if !select.group_clause.is_empty() || select.having_clause.is_some() {
        return Ok(true);
    }
    for target in &select.target_list {
        if contains_aggregate(&mut target.clone(), functions)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes an aggregation apart. The SELECT's names must be qualified.
pub(crate) fn split(select: &SelectStmt, functions: &[Function]) -> Outcome<Grouping> {
    let mut splitter = Splitter { functions, groups: Vec::new(), arguments: Vec::new(), dependents: Vec::new() };
    for group in &select.group_clause {
        if let Some(NodeEnum::GroupingSet(sets)) = &group.node {
            return Err(Obstacle::at("it has grouping sets", sets.location));
        }
        if matches!(&group.node, Some(NodeEnum::AConst(_))) {
            return Err(Obstacle::new("it groups by a constant"));
        }
        splitter.groups.push(print_expression(group)?);
    }
    let mut select_list = Vec::new();
    let mut group_outputs = vec![None; splitter.groups.len()];
    for (position, target) in select.target_list.iter().enumerate() {
        let Some(expression) = target_expression(target).cloned() else {
            return Err(Obstacle::new("an output column has no expression"));
        };
        let printed = print_expression(&expression)?;
        if let Some(group) = splitter.groups.iter().position(|text| *text == printed) {
            group_outputs[group].get_or_insert(position);
        }
        select_list.push(print_expression(&splitter.over_contributions(expression)?)?);
    }
    let having = match &select.having_clause {
        Some(condition) => Some(print_expression(&splitter.over_contributions((**condition).clone())?)?),
        None => None,
    };
    Ok(Grouping {
        groups: splitter.groups,
        group_outputs,
        arguments: splitter.arguments,
        dependents: splitter.dependents,
        select_list,
        form: GroupForm::Aggregate { having },
        typed_as_output: false,
    })
}

struct Splitter<'a> {
    functions: &'a [Function],
    groups: Vec<String>,
    arguments: Vec<String>,
    dependents: Vec<String>,
}

impl Splitter<'_> {
    /// Rewrites an expression of the select list or HAVING so that it reads contributions.
    fn over_contributions(&mut self, mut node: Node) -> Outcome<Node> {
        let printed = print_expression(&node)?;
        if let Some(group) = self.groups.iter().position(|text| *text == printed) {
            return Ok(column_reference(CONTRIBUTION_ALIAS, &group_column(group)));
        }
        match &node.node {
            Some(NodeEnum::ColumnRef(reference)) => {
                refuse_whole_row(reference)?;
                return Ok(self.dependent_column(printed));
            }
            // It refers to grouping columns only, so the grouping key determines it.
            Some(NodeEnum::SubLink(link)) => {
                if aggregates_outer_rows(&node, self.functions)? {
                    return Err(Obstacle::at("a subquery aggregates rows of the query around it", link.location));
                }
                return Ok(self.dependent_column(printed));
            }
            _ if is_aggregate_call(&node, self.functions) => {
                self.feed_arguments(&mut node)?;
                return Ok(node);
            }
            // Compared for each row, so that the group is seen to change when the time passes the bound.
            Some(NodeEnum::AExpr(_))
                if crate::resolve::contains_clock(&node)? && !contains_aggregate(&mut node.clone(), self.functions)? =>
            {
                return Ok(self.dependent_column(printed));
            }
            Some(_) | None => {}
        }
        for child in children(&mut node)? {
            let rewritten = self.over_contributions(std::mem::take(child))?;
            *child = rewritten;
        }
        Ok(node)
    }

    /// A column outside GROUP BY, allowed because the grouping key determines it: all contributions of a group agree on it, so
    /// grouping by it too changes nothing.
    fn dependent_column(&mut self, printed: String) -> Node {
        let column = self.argument(printed);
        if !self.dependents.contains(&column) {
            self.dependents.push(column.clone());
        }
        column_reference(CONTRIBUTION_ALIAS, &column)
    }

    /// Replaces what an aggregate is fed by contribution columns: arguments, ORDER BY, FILTER.
    ///
    /// The direct arguments of an ordered-set aggregate are no rows' values: they may refer to groups only.
    fn feed_arguments(&mut self, call: &mut Node) -> Outcome<()> {
        if let Some(NodeEnum::FuncCall(call)) = call.node.as_mut()
            && call.agg_within_group
        {
            for direct in std::mem::take(&mut call.args) {
                let rewritten = self.over_contributions(direct)?;
                call.args.push(rewritten);
            }
            for sort in &mut call.agg_order {
                if let Some(NodeEnum::SortBy(sort)) = sort.node.as_mut()
                    && let Some(slot) = sort.node.as_deref_mut()
                {
                    self.feed(slot)?;
                }
            }
            return call.agg_filter.as_deref_mut().map_or(Ok(()), |filter| self.feed(filter));
        }
        for child in children(call)? {
            let slot = match child.node.as_mut() {
                Some(NodeEnum::SortBy(sort)) => sort.node.as_deref_mut(),
                Some(NodeEnum::NamedArgExpr(named)) => named.arg.as_deref_mut(),
                Some(_) | None => Some(child),
            };
            if let Some(slot) = slot {
                self.feed(slot)?;
            }
        }
        Ok(())
    }

    fn feed(&mut self, slot: &mut Node) -> Outcome<()> {
        if reads_columns(&mut slot.clone())? {
            if let Some(NodeEnum::ColumnRef(reference)) = &slot.node {
                refuse_whole_row(reference)?;
            }
            let column = self.argument(print_expression(slot)?);
            *slot = column_reference(CONTRIBUTION_ALIAS, &column);
        }
        Ok(())
    }

    fn argument(&mut self, printed: String) -> String {
        let index = self.arguments.iter().position(|text| *text == printed).unwrap_or_else(|| {
            self.arguments.push(printed);
            self.arguments.len() - 1
        });
        argument_column(index)
    }
}

/// `t.*` as a value prints like a list of columns and would become one.
fn refuse_whole_row(reference: &ColumnRef) -> Outcome<()> {
    if reference.fields.iter().any(|field| matches!(&field.node, Some(NodeEnum::AStar(_)))) {
        return Err(Obstacle::at("it aggregates whole rows", reference.location));
    }
    Ok(())
}

/// Whether an expression depends on rows.
pub(crate) fn reads_columns(node: &mut Node) -> Outcome<bool> {
    if matches!(&node.node, Some(NodeEnum::ColumnRef(_) | NodeEnum::SubLink(_))) {
        return Ok(true);
    }
    for child in children(node)? {
        if reads_columns(child)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an expression calls an aggregate.
pub(crate) fn contains_aggregate(node: &mut Node, functions: &[Function]) -> Outcome<bool> {
    if is_aggregate_call(node, functions) {
        return Ok(true);
    }
    for child in children(node)? {
        if contains_aggregate(child, functions)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the node itself is a call of an aggregate that is no window function.
pub(crate) fn is_aggregate_call(node: &Node, functions: &[Function]) -> bool {
    let Some(NodeEnum::FuncCall(call)) = &node.node else { return false };
    call.over.is_none() && is_kind(call, functions, FunctionKind::Aggregate)
}

fn is_kind(call: &FuncCall, functions: &[Function], kind: FunctionKind) -> bool {
    let parts = name_parts(&call.funcname);
    let (schema, name) = match parts.as_slice() {
        [name] => ("pg_catalog", *name),
        [schema, name] => (*schema, *name),
        _ => return false,
    };
    functions.iter().any(|function| function.kind == kind && function.schema == schema && function.name == name)
}

/// Whether a subquery has an aggregate over columns of the query around it: `(SELECT sum(outer.x))`.
fn aggregates_outer_rows(node: &Node, functions: &[Function]) -> Outcome<bool> {
    let serialized = |value: &Node| serde_json::to_value(value).unwrap_or_default();
    let mut found = false;
    for_each_subquery(&mut node.clone(), &mut |select| {
        let own = serde_json::to_value(&select.from_clause).map_err(|error| error.to_string())?;
        let mut names = std::collections::BTreeSet::new();
        aliases(&own, &mut names);
        for target in select.target_list.iter().chain(select.having_clause.as_deref()) {
            let mut copy = target.clone();
            let mut calls = Vec::new();
            aggregate_calls(&mut copy, functions, &mut calls).map_err(|obstacle| obstacle.reason)?;
            for call in calls {
                let mut used = std::collections::BTreeSet::new();
                referenced(&serialized(&call), &mut used);
                found |= !used.is_empty() && used.is_disjoint(&names);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn aggregate_calls(node: &mut Node, functions: &[Function], found: &mut Vec<Node>) -> Outcome<()> {
    if is_aggregate_call(node, functions) {
        found.push(node.clone());
        return Ok(());
    }
    children(node)?.into_iter().try_for_each(|child| aggregate_calls(child, functions, found))
}

fn aliases(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for name in ["aliasname", "relname"] {
                if let Some(serde_json::Value::String(text)) = fields.get(name) {
                    found.insert(text.clone());
                }
            }
            fields.values().for_each(|field| aliases(field, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| aliases(item, found)),
        _ => {}
    }
}

/// The aliases of the qualified references in a serialised tree.
fn referenced(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                if name == "ColumnRef"
                    && let Some(serde_json::Value::String(alias)) = field.pointer("/fields/0/node/String/sval")
                {
                    found.insert(alias.clone());
                }
                referenced(field, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| referenced(item, found)),
        _ => {}
    }
}

/// Whether a window function is called.
pub(crate) fn has_window(select: &SelectStmt) -> Outcome<bool> {
    Ok(!windows(select)?.is_empty())
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
        return Err(Obstacle::at("a window function looks over all rows, without PARTITION BY", *location));
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
            return Err(Obstacle::at("a window function has another partition than those before it", location));
        }
        common = kept;
    }
    Ok(common)
}

/// Whether the select list calls a function that returns a set.
pub(crate) fn returns_set(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    for target in &select.target_list {
        if contains_set(&mut target.clone(), functions)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an expression calls a function that returns a set.
pub(crate) fn contains_set(node: &mut Node, functions: &[Function]) -> Outcome<bool> {
    if let Some(NodeEnum::FuncCall(call)) = &node.node {
        let name = call.funcname.last().and_then(string_of).unwrap_or_default();
        if functions.iter().any(|function| function.returns_set && function.name == name) {
            return Ok(true);
        }
    }
    for child in children(node)? {
        if contains_set(child, functions)? {
            return Ok(true);
        }
    }
    Ok(false)
}
