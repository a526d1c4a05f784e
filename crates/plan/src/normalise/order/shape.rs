//! What a SELECT's result looks like to the query around it: columns, key, order.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt};

use super::rows::{Level, ROW_NUMBER, Shape, ShapeColumn};

use crate::model::obstacle::Outcome;
use crate::syntax::{self, print_expression, string_of, wrap};

/// The order in which the only item of FROM comes; `None` if it has one that is not among its columns.
pub(super) fn inherited(level: &Level) -> Option<Vec<Node>> {
    match level.items.as_slice() {
        [item] => item
            .shape
            .order
            .iter()
            .map(|sort| {
                let mut sort = sort.clone().ok()?;
                if let Some(NodeEnum::SortBy(by)) = sort.node.as_mut()
                    && let Some(column) = by.node.as_deref().and_then(string_of).map(str::to_owned)
                {
                    by.node = Some(Box::new(syntax::column_reference(&item.alias, &column)));
                }
                Some(sort)
            })
            .collect(),
        _ => Some(Vec::new()),
    }
}

/// The aliases that are used as whole rows: no column can be added to those.
pub(super) fn whole_rows(select: &SelectStmt) -> Outcome<BTreeSet<String>> {
    fn within(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                let parts =
                    fields.get("ColumnRef").and_then(|reference| reference.get("fields")).and_then(|parts| parts.as_array());
                if let Some([alias, .., last]) = parts.map(Vec::as_slice)
                    && last.pointer("/node/AStar").is_some()
                    && let Some(alias) = alias.pointer("/node/String/sval").and_then(serde_json::Value::as_str)
                {
                    found.insert(alias.to_owned());
                }
                fields.values().for_each(|field| within(field, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| within(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    within(&serde_json::to_value(select).map_err(|error| error.to_string())?, &mut found);
    Ok(found)
}

/// Has the functions of a FROM item number their rows.
pub(super) fn number_rows(item: &mut Node) {
    match item.node.as_mut() {
        Some(NodeEnum::RangeFunction(function)) if !function.ordinality && function.coldeflist.is_empty() => {
            if let Some(alias) = function.alias.as_mut().filter(|alias| !alias.colnames.is_empty()) {
                alias.colnames.push(wrap(NodeEnum::String(pg_query::protobuf::String { sval: ROW_NUMBER.to_owned() })));
                function.ordinality = true;
            }
        }
        Some(NodeEnum::JoinExpr(join)) => {
            [&mut join.larg, &mut join.rarg].into_iter().flatten().for_each(|side| number_rows(side));
        }
        Some(_) | None => {}
    }
}

/// The value of a constant.
pub(super) fn integer(node: &Node) -> Option<usize> {
    match &node.node {
        Some(NodeEnum::AConst(constant)) => match &constant.val {
            Some(pg_query::protobuf::a_const::Val::Ival(value)) => usize::try_from(value.ival).ok(),
            Some(_) | None => None,
        },
        Some(_) | None => None,
    }
}

/// The names of the output columns, where every one has a name.
pub(super) fn columns_of(select: &SelectStmt) -> Shape {
    let mut first = select;
    while let (true, Some(left)) = (syntax::is_set_operation(first), first.larg.as_deref()) {
        first = left;
    }
    if let Some(row) = first.values_lists.first() {
        let count = match &row.node {
            Some(NodeEnum::List(list)) => list.items.len(),
            Some(_) | None => 0,
        };
        let column = |n| ShapeColumn { name: format!("column{n}"), type_name: None };
        return Shape { columns: Some((1..=count).map(column).collect()), ..Shape::default() };
    }
    let columns = first.target_list.iter().map(|target| Some(ShapeColumn { name: output_name(target)?, type_name: None }));
    Shape { columns: columns.collect(), ..Shape::default() }
}

/// As PostgreSQL's `FigureColname`, for what it prints without AS.
fn output_name(target: &Node) -> Option<String> {
    let Some(NodeEnum::ResTarget(target)) = &target.node else { return None };
    if !target.name.is_empty() {
        return Some(target.name.clone());
    }
    match target.val.as_ref().and_then(|value| value.node.as_ref()) {
        Some(NodeEnum::ColumnRef(reference)) => reference.fields.last().and_then(string_of).map(str::to_owned),
        Some(NodeEnum::FuncCall(call)) => call.funcname.last().and_then(string_of).map(str::to_owned),
        Some(_) | None => None,
    }
}

/// What is known of a SELECT's result.
pub(super) fn shape(select: &SelectStmt, level: &Level, aggregates: bool, functions: &[crate::facts::Function]) -> Shape {
    let mut shape = columns_of(select);
    let Some(columns) = &mut shape.columns else { return shape };
    let values: Vec<&Node> = select.target_list.iter().filter_map(syntax::target_expression).collect();
    if values.len() != columns.len() {
        return Shape::default();
    }
    for (column, value) in columns.iter_mut().zip(&values) {
        column.type_name = level.type_of(value);
    }
    let texts: Vec<String> = values.iter().map(|value| print_expression(value).unwrap_or_default()).collect();
    let output = |node: &Node| {
        let printed = print_expression(node).ok()?;
        let direct = texts.iter().position(|text| *text == printed);
        let same = || {
            let wanted = level.reference(node)?;
            values.iter().position(|value| level.reference(value).as_ref() == Some(&wanted))
        };
        direct.or_else(same).map(|position| columns[position].name.clone())
    };
    let returns_set = syntax::returns_set(select, functions).unwrap_or(true);
    let one = select.limit_count.as_deref().and_then(integer) == Some(1);
    let on = select.distinct_clause.iter().any(|node| node.node.is_some());
    shape.key = if one || (aggregates && select.group_clause.is_empty() && !returns_set) {
        Some(Vec::new())
    } else if on {
        select.distinct_clause.iter().map(output).collect()
    } else if !select.distinct_clause.is_empty() {
        Some(columns.iter().map(|column| column.name.clone()).collect())
    } else if returns_set {
        None
    } else if aggregates {
        select.group_clause.iter().map(output).collect()
    } else {
        let keys = level.items.iter().map(|item| {
            let key = item.shape.key.as_ref()?;
            let node = |column: &String| syntax::column_reference(&item.alias, column);
            key.iter().map(|column| output(&node(column))).collect::<Option<Vec<String>>>()
        });
        keys.collect::<Option<Vec<Vec<String>>>>().map(|keys| keys.concat())
    };
    let column_node = |name: String| wrap(NodeEnum::String(pg_query::protobuf::String { sval: name }));
    // A query without an order of its own hands on the one that it reads in.
    let plain = !aggregates && select.distinct_clause.is_empty();
    let handed_on = if plain { inherited(level) } else { Some(Vec::new()) };
    // The order of a function's rows is hidden.
    let hidden = plain
        && select.sort_clause.is_empty()
        && (handed_on.is_none() || matches!(level.items.as_slice(), [item] if item.numbered));
    if hidden {
        shape.order = vec![Err(())];
        return shape;
    }
    let handed_on = handed_on.unwrap_or_default();
    let sort_clause = if select.sort_clause.is_empty() { &handed_on } else { &select.sort_clause };
    shape.order = sort_clause
        .iter()
        .map(|sort| {
            let mut sort = sort.clone();
            let Some(NodeEnum::SortBy(by)) = sort.node.as_mut() else { return Err(()) };
            let name = by.node.as_deref().and_then(&output).ok_or(())?;
            by.node = Some(Box::new(column_node(name)));
            Ok(sort)
        })
        .collect();
    shape
}
