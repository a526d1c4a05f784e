//! Subqueries in FROM: which can be seen through, and how far.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt};

use super::scope::Rows;
use crate::model::facts::Function;
use crate::model::obstacle::Outcome;
use crate::syntax::{self, children, print_expression, target_expression};

/// Whether a row of the subquery is more than one combination of its tables' rows.
pub(super) fn is_opaque(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    Ok(syntax::is_set_operation(select)
        || !select.values_lists.is_empty()
        || !select.distinct_clause.is_empty()
        || select.limit_count.is_some()
        || select.limit_offset.is_some()
        || syntax::is_aggregate(select, functions)?
        || syntax::has_window(select)?
        || syntax::returns_set(select, functions)?)
}

/// Which output expressions separate the rows of a subquery of IN: a member equal to `x` comes from rows where the expression is `x`.
/// In order of the select list.
pub(super) fn separating_outputs(select: &SelectStmt, functions: &[Function]) -> Outcome<Vec<bool>> {
    if syntax::is_set_operation(select) || !select.values_lists.is_empty() {
        return Ok(Vec::new());
    }
    // DISTINCT takes nothing away from what the members are.
    let mut plain = select.clone();
    if plain.distinct_clause.iter().all(|node| node.node.is_none()) {
        plain.distinct_clause.clear();
    }
    Ok(columns(&plain, functions)?.iter().map(|(_, seen)| seen.is_some()).collect())
}

/// The output columns, with the expression where one can see through: in a transparent subquery everywhere; else only where rows with
/// different values of the expression do not meet, so that a condition on it may be pushed into the subquery's WHERE.
pub(super) fn columns(select: &SelectStmt, functions: &[Function]) -> Outcome<Vec<(String, Option<Node>)>> {
    if syntax::is_set_operation(select) {
        // Its names are those of the first branch.
        let first = select.larg.as_deref().map(|first| columns(first, functions)).transpose()?.unwrap_or_default();
        return Ok(first.into_iter().map(|(name, _)| (name, None)).collect());
    }
    if let Some(row) = select.values_lists.first() {
        let columns = match &row.node {
            Some(NodeEnum::List(list)) => list.items.len(),
            Some(_) | None => 0,
        };
        return Ok((1..=columns).map(|n| (format!("column{n}"), None)).collect());
    }
    let separate = separating(select, functions)?;
    select
        .target_list
        .iter()
        .map(|target| {
            let Some(NodeEnum::ResTarget(result)) = &target.node else { return Ok((String::new(), None)) };
            let value = target_expression(target);
            let seen = match (&separate, value) {
                (Separating::All, Some(value)) => Some(value.clone()),
                (Separating::These(texts), Some(value)) => texts.contains(&print_expression(value)?).then(|| value.clone()),
                (_, None) => None,
            };
            Ok((column_name(&result.name, value), seen))
        })
        .collect()
}

/// `pg_get_viewdef` names every column that is not a plain reference.
fn column_name(given: &str, value: Option<&Node>) -> String {
    if !given.is_empty() {
        return given.to_owned();
    }
    match value.and_then(|value| value.node.as_ref()) {
        Some(NodeEnum::ColumnRef(reference)) => {
            reference.fields.last().and_then(syntax::string_of).unwrap_or_default().to_owned()
        }
        Some(_) | None => "?column?".to_owned(),
    }
}

enum Separating {
    All,
    These(BTreeSet<String>),
}

/// The expressions by which the subquery's input falls into parts that it treats one by one.
fn separating(select: &SelectStmt, functions: &[Function]) -> Outcome<Separating> {
    if select.limit_count.is_some() || select.limit_offset.is_some() {
        return Ok(Separating::These(BTreeSet::new()));
    }
    let mut parts: Option<BTreeSet<String>> = None;
    let mut narrow = |texts: BTreeSet<String>| {
        parts = Some(match parts.take() {
            None => texts,
            Some(earlier) => earlier.intersection(&texts).cloned().collect(),
        });
    };
    if syntax::is_aggregate(select, functions)? {
        narrow(plain_groups(select)?);
    }
    if syntax::has_window(select)? {
        narrow(syntax::common_partition(select)?.iter().map(print_expression).collect::<Result<_, _>>()?);
    }
    if select.distinct_clause.iter().any(|node| node.node.is_some()) {
        narrow(select.distinct_clause.iter().map(print_expression).collect::<Result<_, _>>()?);
    }
    // A set-returning function in the select list makes rows of one row: what stands beside it can be seen through.
    if syntax::returns_set(select, functions)? {
        let single = select.target_list.iter().filter_map(target_expression);
        let mut texts = BTreeSet::new();
        for value in single {
            if !syntax::contains_set(&mut value.clone(), functions)? {
                texts.insert(print_expression(value)?);
            }
        }
        narrow(texts);
    }
    Ok(parts.map_or(Separating::All, Separating::These))
}

fn plain_groups(select: &SelectStmt) -> Outcome<BTreeSet<String>> {
    if select.group_clause.iter().any(|group| matches!(&group.node, Some(NodeEnum::GroupingSet(_)))) {
        return Ok(BTreeSet::new());
    }
    Ok(select.group_clause.iter().map(print_expression).collect::<Result<_, _>>()?)
}

/// How many rows an opaque subquery has.
pub(super) fn rows(select: &SelectStmt, functions: &[Function]) -> Outcome<Rows> {
    if syntax::is_set_operation(select) || syntax::returns_set(select, functions)? {
        return Ok(Rows::Many);
    }
    let with_ties = select.limit_option == pg_query::protobuf::LimitOption::WithTies as i32;
    if select.limit_count.as_deref().is_some_and(is_one) && !with_ties {
        return Ok(Rows::AtMostOne);
    }
    if syntax::is_aggregate(select, functions)? {
        if select.group_clause.is_empty() {
            return Ok(Rows::AtMostOne);
        }
        let plain = select.group_clause.iter().all(|group| !matches!(&group.node, Some(NodeEnum::GroupingSet(_))));
        return Ok(if plain { Rows::PerGroup(select.group_clause.clone()) } else { Rows::Many });
    }
    if select.distinct_clause.iter().any(|node| node.node.is_some()) {
        return Ok(Rows::PerGroup(select.distinct_clause.clone()));
    }
    if !select.distinct_clause.is_empty() {
        return Ok(Rows::PerGroup(select.target_list.iter().filter_map(target_expression).cloned().collect()));
    }
    Ok(Rows::Many)
}

fn is_one(limit: &Node) -> bool {
    let mut copy = limit.clone();
    match &limit.node {
        Some(NodeEnum::AConst(constant)) => {
            matches!(&constant.val, Some(pg_query::protobuf::a_const::Val::Ival(value)) if value.ival == 1)
        }
        // PostgreSQL prints LIMIT 1 as it is, or with a cast to bigint.
        Some(NodeEnum::TypeCast(_)) => {
            children(&mut copy).is_ok_and(|inner| inner.into_iter().next().is_some_and(|inner| is_one(inner)))
        }
        Some(_) | None => false,
    }
}
