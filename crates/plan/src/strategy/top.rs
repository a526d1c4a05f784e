//! `ORDER BY … LIMIT n` over a block.
//!
//! The rule: `λ[n; o](B)` is the first n rows of an index of B's table on o. When a batch wrote to B they are read again, and written where they
//! differ: n rows, however many B has.

use pg_query::NodeEnum;
use pg_query::protobuf::{LimitOption, Node};

use crate::model::facts::{Query, RelationKind};
use crate::model::index::{Purpose, WantedIndex};
use crate::model::plan::FirstRows;
use crate::syntax;

/// The rows that a query takes from the start of a block, if that is all it does.
pub(super) fn first_rows(query: &Query) -> Option<FirstRows> {
    let select = syntax::parse_select(&query.sql).ok()?;
    let [item] = select.from_clause.as_slice() else { return None };
    let Some(NodeEnum::RangeVar(table)) = &item.node else { return None };
    let [relation] = query.relations.as_slice() else { return None };
    let alias = table.alias.as_ref().map_or(table.relname.as_str(), |alias| alias.aliasname.as_str());
    let is_plain = !syntax::is_set_operation(&select)
        && select.where_clause.is_none()
        && select.distinct_clause.is_empty()
        && !syntax::is_aggregate(&select, &query.functions).ok()?
        && !syntax::has_window(&select).ok()?
        && !syntax::returns_set(&select, &query.functions).ok()?
        && select.limit_option != LimitOption::WithTies as i32;
    if !is_plain || relation.kind != RelationKind::Projection || select.sort_clause.is_empty() || select.limit_count.is_none() {
        return None;
    }
    // What is appended so that rows that tie have an order may be no column: then those that tie are sorted.
    let order: Vec<String> = select.sort_clause.iter().map_while(|sort| key(sort, alias, &select.target_list)).collect();
    if order.is_empty() {
        return None;
    }
    let (schema, name) = (relation.schema.clone(), relation.name.clone());
    let index = WantedIndex { schema, table: name, keys: order, purpose: Purpose::Order };
    Some(FirstRows { of: relation.label(), index })
}

/// A sort key as an index has it: a column, its direction, where NULLs stand.
fn key(sort: &Node, alias: &str, outputs: &[Node]) -> Option<String> {
    let mut sort = sort.clone();
    let Some(NodeEnum::SortBy(by)) = sort.node.as_mut() else { return None };
    if !by.use_op.is_empty() {
        return None;
    }
    let value = by.node.as_deref_mut()?;
    // By number it is an output column.
    if let Some(NodeEnum::AConst(constant)) = &value.node {
        let Some(pg_query::protobuf::a_const::Val::Ival(number)) = &constant.val else { return None };
        *value = outputs.get(usize::try_from(number.ival).ok()?.checked_sub(1)?).and_then(syntax::target_expression)?.clone();
    }
    *value = syntax::without_alias(value, alias).ok()?;
    let is_column = matches!(&value.node, Some(NodeEnum::ColumnRef(reference)) if reference.fields.len() == 1);
    if is_column { syntax::print_sort(&sort).ok() } else { None }
}
