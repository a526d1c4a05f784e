//! Limits on ranks: `SELECT * FROM (SELECT …, rank() OVER (PARTITION BY …) AS place FROM …) WHERE place <= n`.
//!
//! The rule: `σ[f] ω[p](C) = ⊎ q ∈ π[p] C: σ[f] ω(σ[p = q] C)`, so a partition's rows are those of its windows that the limit keeps. And
//! `σ[f ∧ g](O(B)) = σ[f ∧ g](O(σ[f] B))` where f compares columns of B with constants: whatever O joins B with, a row that f does not keep, or
//! the NULLs that an outer join puts in its place, is not in the result. The same holds for f in the condition of a join, on a side whose rows
//! are not in the join's result without it. So a block whose only reader asks for the first few of each
//! partition holds no others.

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, Alias, JoinType, Node, RangeSubselect, SelectStmt};

use super::decomposition::{expose_groups, hidden_groups, over};
use crate::model::contributions::{KEPT, kept_column};
use crate::model::facts::Function;
use crate::model::obstacle::Outcome;
use crate::syntax::{
    self, column_reference, conjuncts, has_window, name_parts, print_expression, string_of, target_expression, wrap,
};

/// Functions whose value is a place in the partition.
const RANKS: [&str; 3] = ["row_number", "rank", "dense_rank"];

/// A comparison of a column with a constant.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    /// The name before the column; none where there is but one item in FROM.
    alias: Option<String>,
    column: String,
    /// Whether it bounds from above.
    upper: bool,
    condition: Node,
}

/// The comparisons with constants that rows of FROM items satisfy, or are of no consequence.
pub(super) fn of(select: &SelectStmt) -> Vec<Limit> {
    let mut found = of_condition(select.where_clause.as_deref());
    select.from_clause.iter().for_each(|item| of_joins(item, &mut found));
    found
}

fn of_condition(condition: Option<&Node>) -> Vec<Limit> {
    condition.map(conjuncts).unwrap_or_default().into_iter().filter_map(limit).collect()
}

/// What a join's condition says of a side whose rows are not in the result without it.
fn of_joins(item: &Node, found: &mut Vec<Limit>) {
    let Some(NodeEnum::JoinExpr(join)) = &item.node else { return };
    let sides: Vec<&Node> = match JoinType::try_from(join.jointype) {
        Ok(JoinType::JoinInner) => [&join.larg, &join.rarg].into_iter().flatten().map(AsRef::as_ref).collect(),
        Ok(JoinType::JoinLeft) => join.rarg.iter().map(AsRef::as_ref).collect(),
        Ok(JoinType::JoinRight) => join.larg.iter().map(AsRef::as_ref).collect(),
        Ok(_) | Err(_) => Vec::new(),
    };
    let named: Vec<&str> = sides.into_iter().flat_map(aliases).collect();
    let of_it = |limit: &Limit| limit.alias.as_ref().is_some_and(|alias| named.contains(&alias.as_str()));
    found.extend(of_condition(join.quals.as_deref()).into_iter().filter(of_it));
    [&join.larg, &join.rarg].into_iter().flatten().for_each(|side| of_joins(side, found));
}

/// The names of the subqueries in a FROM item.
fn aliases(item: &Node) -> Vec<&str> {
    match &item.node {
        Some(NodeEnum::JoinExpr(join)) => [&join.larg, &join.rarg].into_iter().flatten().flat_map(|side| aliases(side)).collect(),
        Some(NodeEnum::RangeSubselect(subselect)) => subselect.alias.iter().map(|alias| alias.aliasname.as_str()).collect(),
        Some(_) | None => Vec::new(),
    }
}

fn limit(node: &Node) -> Option<Limit> {
    let Some(NodeEnum::AExpr(expression)) = &node.node else { return None };
    let [name] = name_parts(&expression.name)[..] else { return None };
    if expression.kind != AExprKind::AexprOp as i32 {
        return None;
    }
    let (left, right) = (expression.lexpr.as_deref()?, expression.rexpr.as_deref()?);
    let (reference, constant, upper) = match (&left.node, &right.node) {
        (Some(NodeEnum::ColumnRef(reference)), _) => (reference, right, ["<", "<=", "="].contains(&name)),
        (_, Some(NodeEnum::ColumnRef(reference))) => (reference, left, [">", ">=", "="].contains(&name)),
        _ => return None,
    };
    if !["<", "<=", "=", ">=", ">"].contains(&name) || !is_constant(constant) {
        return None;
    }
    let parts: Vec<&str> = reference.fields.iter().map(string_of).collect::<Option<_>>()?;
    let (alias, column) = match parts[..] {
        [column] => (None, column),
        [alias, column] => (Some(alias.to_owned()), column),
        _ => return None,
    };
    Some(Limit { alias, column: column.to_owned(), upper, condition: node.clone() })
}

fn is_constant(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::AConst(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_constant),
        Some(_) | None => false,
    }
}

/// A subquery in FROM with windows that keeps only what its reader asks for; `None` where that asks for everything. `alone`: nothing else
/// is in FROM.
pub(super) fn limited(
    subselect: &RangeSubselect,
    limits: &[Limit],
    alone: bool,
    functions: &[Function],
) -> Outcome<Option<SelectStmt>> {
    let Some(alias) = subselect.alias.as_ref().filter(|alias| alias.colnames.is_empty()) else { return Ok(None) };
    let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_deref().and_then(|node| node.node.as_ref()) else {
        return Ok(None);
    };
    if !is_windowed(inner, functions)? {
        return Ok(None);
    }
    let of_it = |limit: &&Limit| match &limit.alias {
        Some(name) => *name == alias.aliasname,
        None => alone,
    };
    let Some(mut names) = output_names(inner) else { return Ok(None) };
    let found: Vec<&Limit> = limits.iter().filter(of_it).filter(|limit| is_rank(inner, &names, &limit.column)).collect();
    if !found.iter().any(|limit| limit.upper) {
        return Ok(None);
    }
    let mut inner = inner.clone();
    for (target, name) in inner.target_list.iter_mut().zip(&names) {
        if let Some(NodeEnum::ResTarget(target)) = target.node.as_mut() {
            target.name.clone_from(name);
        }
    }
    // Its rows are found by what they are partitioned by.
    expose_groups(&mut inner, functions);
    names = output_names(&inner).unwrap_or(names);
    let mut outer = over("", "", Vec::new());
    outer.target_list = names.iter().map(|name| syntax::target("", column_reference(&alias.aliasname, name))).collect();
    outer.from_clause = vec![wrap(NodeEnum::RangeSubselect(Box::new(RangeSubselect {
        lateral: false,
        subquery: Some(Box::new(wrap(NodeEnum::SelectStmt(inner)))),
        alias: Some(Alias { aliasname: alias.aliasname.clone(), colnames: Vec::new() }),
    })))];
    for limit in found {
        outer.where_clause = Some(syntax::and(outer.where_clause.take(), limit.condition.clone()));
    }
    Ok(Some(outer))
}

/// The SELECT with windows of which all columns are read and a limit keeps some rows, where that is all that a SELECT does; and the limit,
/// over [`KEPT`].
pub(super) fn taken_from(select: &SelectStmt, functions: &[Function]) -> Outcome<Option<(SelectStmt, String)>> {
    let Some((inner, alias)) = read_alone(select, functions)? else { return Ok(None) };
    let Some(names) = output_names(inner) else { return Ok(None) };
    let Some(condition) = &select.where_clause else { return Ok(None) };
    let reads = |target: &Node, name: &String| matches!(target_expression(target).map(|value| column_of(value, alias)), Some(Some(read)) if read == *name);
    let all = select.target_list.len() == names.len()
        && select.target_list.iter().zip(&names).all(|(target, name)| reads(target, name));
    let limits = of_condition(Some(condition));
    let of_it = |limit: &Limit| limit.alias.as_ref().is_none_or(|name| name == alias) && is_rank(inner, &names, &limit.column);
    if !all
        || limits.len() != conjuncts(condition).len()
        || !limits.iter().all(of_it)
        || !hidden_groups(inner, functions)?.is_empty()
    {
        return Ok(None);
    }
    let mut conditions = Vec::new();
    for limit in limits {
        let position = names.iter().position(|name| *name == limit.column).unwrap_or_default();
        let mut condition = limit.condition;
        if let Some(NodeEnum::AExpr(expression)) = condition.node.as_mut() {
            for side in [&mut expression.lexpr, &mut expression.rexpr].into_iter().flatten() {
                if matches!(&side.node, Some(NodeEnum::ColumnRef(_))) {
                    **side = column_reference(KEPT, &kept_column(position));
                }
            }
        }
        conditions.push(print_expression(&condition)?);
    }
    Ok(Some((inner.clone(), conditions.join(" AND "))))
}

/// The same to be changed, where its rows could be maintained with the limit if those that it is made from were blocks.
pub(super) fn inner_mut<'a>(select: &'a mut SelectStmt, functions: &[Function]) -> Outcome<Option<&'a mut SelectStmt>> {
    if taken_from(select, functions)?.is_none() {
        return Ok(None);
    }
    let Some(NodeEnum::RangeSubselect(subselect)) = select.from_clause.first_mut().and_then(|item| item.node.as_mut()) else {
        return Ok(None);
    };
    match subselect.subquery.as_deref_mut().and_then(|node| node.node.as_mut()) {
        Some(NodeEnum::SelectStmt(inner)) => Ok(Some(inner)),
        Some(_) | None => Ok(None),
    }
}

/// The subquery in FROM with windows and its alias, where a SELECT reads nothing else and does nothing but filter.
fn read_alone<'a>(select: &'a SelectStmt, functions: &[Function]) -> Outcome<Option<(&'a SelectStmt, &'a str)>> {
    let [item] = select.from_clause.as_slice() else { return Ok(None) };
    let Some(NodeEnum::RangeSubselect(subselect)) = &item.node else { return Ok(None) };
    let Some(alias) = subselect.alias.as_ref().filter(|alias| alias.colnames.is_empty()) else { return Ok(None) };
    let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_deref().and_then(|node| node.node.as_ref()) else {
        return Ok(None);
    };
    let only_filters = !syntax::is_set_operation(select)
        && select.with_clause.is_none()
        && select.group_clause.is_empty()
        && select.having_clause.is_none()
        && select.distinct_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && select.locking_clause.is_empty();
    Ok((only_filters && is_windowed(inner, functions)?).then_some((inner, alias.aliasname.as_str())))
}

/// Whether a SELECT computes windows, perhaps over groups, and hides no row of them.
fn is_windowed(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    Ok(!syntax::is_set_operation(select)
        && select.values_lists.is_empty()
        && select.with_clause.is_none()
        && select.distinct_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && has_window(select)?
        && !syntax::returns_set(select, functions)?)
}

/// The names of the columns; `None` where two have the same, or one is not seen.
fn output_names(select: &SelectStmt) -> Option<Vec<String>> {
    let name = |target: &Node| {
        let Some(NodeEnum::ResTarget(target)) = &target.node else { return None };
        let last = match target.val.as_deref().map(|value| &value.node) {
            _ if !target.name.is_empty() => Some(target.name.as_str()),
            Some(Some(NodeEnum::ColumnRef(reference))) => reference.fields.last().and_then(string_of),
            Some(Some(NodeEnum::FuncCall(call))) => call.funcname.last().and_then(string_of),
            Some(_) | None => None,
        };
        last.map(str::to_owned)
    };
    let names: Vec<String> = select.target_list.iter().map(name).collect::<Option<_>>()?;
    let once = names.iter().enumerate().all(|(index, name)| !names[..index].contains(name));
    once.then_some(names)
}

/// Whether an output is a row's place in its partition.
fn is_rank(select: &SelectStmt, names: &[String], column: &str) -> bool {
    let value = names.iter().position(|name| name == column).and_then(|position| select.target_list.get(position));
    let Some(NodeEnum::FuncCall(call)) = value.and_then(target_expression).and_then(|value| value.node.as_ref()) else {
        return false;
    };
    call.over.is_some() && matches!(name_parts(&call.funcname)[..], [name] if RANKS.contains(&name))
}

/// The column of an alias that an expression is.
fn column_of(value: &Node, alias: &str) -> Option<String> {
    let Some(NodeEnum::ColumnRef(reference)) = &value.node else { return None };
    let parts: Vec<&str> = reference.fields.iter().map(string_of).collect::<Option<_>>()?;
    match parts[..] {
        [column] => Some(column.to_owned()),
        [of, column] if of == alias => Some(column.to_owned()),
        _ => None,
    }
}
