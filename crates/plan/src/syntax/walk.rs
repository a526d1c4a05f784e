//! Walking expressions.
//!
//! [`children`] knows the kinds of node that expressions are made of, and says so when it meets another: what cannot be walked
//! cannot be analysed, and the projection is maintained as a whole. [`tally`] guards against a field forgotten here: what a walk met
//! is compared with what the serialised tree contains.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt, WindowDef};

use crate::model::obstacle::Outcome;

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
        | NodeEnum::ParamRef(_)
        | NodeEnum::SetToDefault(_) => Vec::new(),
        NodeEnum::AExpr(n) => boxed([&mut n.lexpr, &mut n.rexpr]),
        NodeEnum::BoolExpr(n) => n.args.iter_mut().collect(),
        NodeEnum::FuncCall(n) => {
            let mut all: Vec<&mut Node> = n.args.iter_mut().chain(n.agg_order.iter_mut()).collect();
            all.extend(n.agg_filter.as_deref_mut());
            all.extend(n.over.as_deref_mut().into_iter().flat_map(window));
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
        NodeEnum::WindowDef(n) => window(n),
        NodeEnum::GroupingSet(n) => n.content.iter_mut().collect(),
        NodeEnum::GroupingFunc(n) => n.args.iter_mut().collect(),
        other => return Err(describe(other)),
    })
}

fn boxed<const N: usize>(fields: [&mut Option<Box<Node>>; N]) -> Vec<&mut Node> {
    fields.into_iter().filter_map(|field| field.as_deref_mut()).collect()
}

fn window(definition: &mut WindowDef) -> Vec<&mut Node> {
    let WindowDef { partition_clause, order_clause, start_offset, end_offset, .. } = definition;
    let mut all: Vec<&mut Node> = partition_clause.iter_mut().chain(order_clause).collect();
    all.extend(boxed([start_offset, end_offset]));
    all
}

fn describe(node: &NodeEnum) -> String {
    let debug = format!("{node:?}");
    let name: String = debug.chars().take_while(char::is_ascii_alphanumeric).collect();
    format!("it has the construct {name}")
}

/// The expressions of one SELECT, its FROM clause apart.
pub(crate) fn clauses(select: &mut SelectStmt) -> Vec<&mut Node> {
    let SelectStmt {
        distinct_clause,
        target_list,
        where_clause,
        group_clause,
        having_clause,
        window_clause,
        values_lists,
        sort_clause,
        limit_offset,
        limit_count,
        ..
    } = select;
    let lists = [distinct_clause, target_list, group_clause, window_clause, values_lists, sort_clause];
    let mut all: Vec<&mut Node> = lists.into_iter().flatten().collect();
    all.extend(boxed([where_clause, having_clause, limit_offset, limit_count]));
    all
}

/// Calls `visit` for every item of a FROM clause that is no join, at any depth of joins.
pub(crate) fn for_each_item(select: &mut SelectStmt, visit: &mut dyn FnMut(&mut Node) -> Outcome<()>) -> Outcome<()> {
    fn within(item: &mut Node, visit: &mut dyn FnMut(&mut Node) -> Outcome<()>) -> Outcome<()> {
        match item.node.as_mut() {
            Some(NodeEnum::JoinExpr(join)) => {
                [&mut join.larg, &mut join.rarg].into_iter().flatten().try_for_each(|side| within(side, visit))
            }
            Some(_) | None => visit(item),
        }
    }
    select.from_clause.iter_mut().try_for_each(|item| within(item, visit))
}

/// Calls `visit` for every SELECT directly inside an expression of a SELECT's clauses; stops at the first that fails.
pub(crate) fn for_each_select_inside(
    select: &mut SelectStmt,
    visit: &mut dyn FnMut(&mut SelectStmt) -> Outcome<()>,
) -> Outcome<()> {
    let mut failed = None;
    for clause in clauses(select) {
        for_each_subquery(clause, &mut |inner| {
            if failed.is_none() {
                failed = visit(inner).err();
            }
            Ok(())
        })?;
    }
    failed.map_or(Ok(()), Err)
}

/// Whether some node of an expression satisfies a condition.
pub(crate) fn any(node: &Node, condition: &dyn Fn(&Node) -> bool) -> Result<bool, String> {
    fn within(node: &mut Node, condition: &dyn Fn(&Node) -> bool) -> Result<bool, String> {
        if condition(node) {
            return Ok(true);
        }
        for child in children(node)? {
            if within(child, condition)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
    within(&mut node.clone(), condition)
}

/// Calls `visit` for every SELECT directly inside an expression (not for those inside these).
pub(crate) fn for_each_subquery(
    node: &mut Node,
    visit: &mut dyn FnMut(&mut SelectStmt) -> Result<(), String>,
) -> Result<(), String> {
    if let Some(NodeEnum::SubLink(link)) = node.node.as_mut()
        && let Some(NodeEnum::SelectStmt(select)) = link.subselect.as_mut().and_then(|node| node.node.as_mut())
    {
        visit(select)?;
    }
    children(node)?.into_iter().try_for_each(|child| for_each_subquery(child, visit))
}

/// What a tree contains; compared with what a walk has met, it shows whether the walk missed a part.
#[derive(Default, PartialEq, Eq, Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) references: usize,
    pub(crate) calls: usize,
    pub(crate) subqueries: usize,
}

/// Counts by the serialised form, which no forgotten field escapes.
pub(crate) fn tally(select: &SelectStmt) -> Result<Tally, String> {
    let serialized = serde_json::to_value(select).map_err(|error| error.to_string())?;
    let mut found = Tally::default();
    count(&serialized, &mut found);
    Ok(found)
}

fn count(value: &serde_json::Value, tally: &mut Tally) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "ColumnRef" => tally.references += 1,
                    "FuncCall" => tally.calls += 1,
                    "SubLink" => tally.subqueries += 1,
                    _ => {}
                }
                count(field, tally);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| count(item, tally)),
        _ => {}
    }
}
