//! What expressions call: aggregates, functions that return sets; and whether they read columns at all.

use pg_query::NodeEnum;
use pg_query::protobuf::{FuncCall, Node, SelectStmt};

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
            // Under an alias a table's own name is not to be referred to.
            let hidden = fields.get("alias").is_some_and(|alias| !alias.is_null());
            for name in if hidden { &["aliasname"][..] } else { &["aliasname", "relname"] } {
                if let Some(serde_json::Value::String(text)) = fields.get(*name) {
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

/// Whether a subquery refers to nothing around it. References to what is around are printed qualified.
pub(crate) fn is_self_contained(select: &SelectStmt) -> Outcome<bool> {
    let tree = serde_json::to_value(select).map_err(|error| error.to_string())?;
    let (mut names, mut used) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    aliases(&tree, &mut names);
    qualified(&tree, &mut used);
    Ok(used.is_subset(&names))
}

/// The aliases of the qualified references in a serialised tree.
fn qualified(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                if name == "ColumnRef"
                    && field.pointer("/fields/1").is_some()
                    && let Some(serde_json::Value::String(alias)) = field.pointer("/fields/0/node/String/sval")
                {
                    found.insert(alias.clone());
                }
                qualified(field, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| qualified(item, found)),
        _ => {}
    }
}

/// The names that are used as whole rows: `s.*`, and `s` where it is no column.
pub(crate) fn whole_rows(select: &SelectStmt) -> Outcome<std::collections::BTreeSet<String>> {
    fn collect(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, field) in fields {
                    let second = field.pointer("/fields/1/node");
                    if name == "ColumnRef"
                        && second.is_none_or(|second| second.get("String").is_none())
                        && let Some(serde_json::Value::String(alias)) = field.pointer("/fields/0/node/String/sval")
                    {
                        found.insert(alias.clone());
                    }
                    collect(field, found);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = std::collections::BTreeSet::new();
    collect(&serde_json::to_value(select).map_err(|error| error.to_string())?, &mut found);
    Ok(found)
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
