//! Walking expressions.
//!
//! [`children`] knows the kinds of node that expressions are made of, and says so when it meets another: what cannot be walked
//! cannot be analysed, and the projection is maintained as a whole. [`subtree_is_known`] guards against a field forgotten here: it
//! compares what the walk finds with what the serialised tree contains.

use pg_query::NodeEnum;
use pg_query::protobuf::Node;

/// The direct sub-expressions of an expression, or the name of a node that is not known.
///
/// A subquery is not a sub-expression: the children of a `SubLink` are its test expression only.
pub(crate) fn children(node: &mut Node) -> Result<Vec<&mut Node>, String> {
    let Some(kind) = node.node.as_mut() else { return Ok(Vec::new()) };
    Ok(match kind {
        NodeEnum::ColumnRef(_)
        | NodeEnum::AConst(_)
        | NodeEnum::SqlvalueFunction(_)
        | NodeEnum::String(_)
        | NodeEnum::Integer(_)
        | NodeEnum::AStar(_)
        | NodeEnum::SetToDefault(_) => Vec::new(),
        NodeEnum::AExpr(n) => boxed([&mut n.lexpr, &mut n.rexpr]),
        NodeEnum::BoolExpr(n) => n.args.iter_mut().collect(),
        NodeEnum::FuncCall(n) => {
            if n.over.is_some() {
                return Err("it has a window function".to_owned());
            }
            let mut all: Vec<&mut Node> = n.args.iter_mut().chain(n.agg_order.iter_mut()).collect();
            all.extend(n.agg_filter.as_deref_mut());
            all
        }
        NodeEnum::TypeCast(n) => boxed([&mut n.arg]),
        NodeEnum::CaseExpr(n) => {
            let mut all = boxed([&mut n.arg, &mut n.defresult]);
            all.extend(n.args.iter_mut());
            all
        }
        NodeEnum::CaseWhen(n) => boxed([&mut n.expr, &mut n.result]),
        NodeEnum::CoalesceExpr(n) => n.args.iter_mut().collect(),
        NodeEnum::MinMaxExpr(n) => n.args.iter_mut().collect(),
        NodeEnum::NullTest(n) => boxed([&mut n.arg]),
        NodeEnum::BooleanTest(n) => boxed([&mut n.arg]),
        NodeEnum::SubLink(n) => boxed([&mut n.testexpr]),
        NodeEnum::AArrayExpr(n) => n.elements.iter_mut().collect(),
        NodeEnum::AIndirection(n) => {
            let mut all = boxed([&mut n.arg]);
            all.extend(n.indirection.iter_mut());
            all
        }
        NodeEnum::AIndices(n) => boxed([&mut n.lidx, &mut n.uidx]),
        NodeEnum::RowExpr(n) => n.args.iter_mut().collect(),
        NodeEnum::List(n) => n.items.iter_mut().collect(),
        NodeEnum::CollateClause(n) => boxed([&mut n.arg]),
        NodeEnum::NamedArgExpr(n) => boxed([&mut n.arg]),
        NodeEnum::SortBy(n) => boxed([&mut n.node]),
        NodeEnum::ResTarget(n) => boxed([&mut n.val]),
        other => return Err(describe(other)),
    })
}

fn boxed<const N: usize>(fields: [&mut Option<Box<Node>>; N]) -> Vec<&mut Node> {
    fields.into_iter().filter_map(|field| field.as_deref_mut()).collect()
}

fn describe(node: &NodeEnum) -> String {
    if matches!(node, NodeEnum::GroupingSet(_)) {
        return "it has grouping sets".to_owned();
    }
    let debug = format!("{node:?}");
    let name: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
    format!("it has the construct {name}")
}

/// Whether the walk sees every column reference, function call and subquery of the expression.
pub(crate) fn subtree_is_known(node: &Node) -> Result<(), String> {
    let mut walked = Tally::default();
    walk(&mut node.clone(), &mut walked)?;
    let serialized = serde_json::to_value(node).map_err(|error| error.to_string())?;
    let mut found = Tally::default();
    count(&serialized, &mut found);
    if walked == found { Ok(()) } else { Err("it has a construct with parts that the planner does not see".to_owned()) }
}

#[derive(Default, PartialEq, Eq, Debug)]
struct Tally {
    references: usize,
    calls: usize,
    subqueries: usize,
}

fn walk(node: &mut Node, tally: &mut Tally) -> Result<(), String> {
    match &node.node {
        Some(NodeEnum::ColumnRef(_)) => tally.references += 1,
        Some(NodeEnum::FuncCall(_)) => tally.calls += 1,
        Some(NodeEnum::SubLink(_)) => tally.subqueries += 1,
        Some(_) | None => {}
    }
    children(node)?.into_iter().try_for_each(|child| walk(child, tally))
}

fn count(value: &serde_json::Value, tally: &mut Tally) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "ColumnRef" => tally.references += 1,
                    "FuncCall" => tally.calls += 1,
                    "SubLink" => tally.subqueries += 1,
                    // A subquery's inside is another scope's business.
                    "subselect" => continue,
                    _ => {}
                }
                count(field, tally);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| count(item, tally)),
        _ => {}
    }
}
