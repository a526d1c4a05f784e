//! What expressions call: aggregates, functions that return sets; and whether they read columns at all.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{FuncCall, Node, SelectStmt};

use super::references::{for_each_reference, names_of};
use super::text::{name_parts, string_of};
use super::walk::{children, for_each_subquery};
use crate::model::facts::{Function, FunctionKind};
use crate::model::obstacle::Outcome;

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
pub(crate) fn aggregates_outer_rows(node: &Node, functions: &[Function]) -> Outcome<bool> {
    let mut found = false;
    for_each_subquery(&mut node.clone(), &mut |select| {
        let names = names_of(&select.from_clause)?;
        for target in select.target_list.iter().chain(select.having_clause.as_deref()) {
            let mut copy = target.clone();
            let mut calls = Vec::new();
            aggregate_calls(&mut copy, functions, &mut calls).map_err(|obstacle| obstacle.reason)?;
            for call in calls {
                let mut used = BTreeSet::new();
                for_each_reference(&call, &mut |first, _| {
                    used.insert(first.to_owned());
                })?;
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

/// Whether the select list calls a function that returns a set.
pub(crate) fn returns_set(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    Ok(place_of_set(select, functions)?.is_some())
}

/// Where the select list calls a function that returns a set, as the parser counts.
pub(crate) fn place_of_set(select: &SelectStmt, functions: &[Function]) -> Outcome<Option<i32>> {
    for target in &select.target_list {
        if let Some(place) = set_in(&mut target.clone(), functions)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Whether an expression calls a function that returns a set.
pub(crate) fn contains_set(node: &mut Node, functions: &[Function]) -> Outcome<bool> {
    Ok(set_in(node, functions)?.is_some())
}

fn set_in(node: &mut Node, functions: &[Function]) -> Outcome<Option<i32>> {
    if let Some(NodeEnum::FuncCall(call)) = &node.node {
        let name = call.funcname.last().and_then(string_of).unwrap_or_default();
        if functions.iter().any(|function| function.returns_set && function.name == name) {
            return Ok(Some(call.location));
        }
    }
    for child in children(node)? {
        if let Some(place) = set_in(child, functions)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}
