//! `ORDER BY … LIMIT n` over a block, or over a table that has an index for it.
//!
//! The rule: `λ[n; o](B)` is the first n rows of an index of B's table on o. When a batch wrote to B they are read again, and written where they
//! differ: n rows, however many B has. A table that has no such index becomes a block that has one (see `composition.rs`).

use pg_query::NodeEnum;
use pg_query::protobuf::{LimitOption, Node, SortByDir, SortByNulls};

use crate::model::facts::{OrderKey, Query, RelationKind};
use crate::model::index::{Purpose, WantedIndex};
use crate::model::plan::FirstRows;
use crate::syntax;

/// The rows that a query takes from the start of a block or a table, if that is all it does.
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
    if !is_plain || select.sort_clause.is_empty() || select.limit_count.is_none() {
        return None;
    }
    // What is appended so that rows that tie have an order may be no column: then those that tie are sorted.
    let order: Vec<SortKey> = select.sort_clause.iter().map_while(|sort| key(sort, alias, &select.target_list)).collect();
    if order.is_empty() {
        return None;
    }
    let index = match relation.kind {
        RelationKind::Projection => {
            let keys = order.into_iter().map(|key| key.printed).collect();
            Some(WantedIndex { schema: relation.schema.clone(), table: relation.name.clone(), keys, purpose: Purpose::Order })
        }
        RelationKind::Table | RelationKind::Partitioned => {
            let all = order.len() == select.sort_clause.len();
            let wanted: Vec<OrderKey> = order.into_iter().map(|key| key.key).collect();
            if !all || !relation.orders.iter().any(|index| reads_in_order(index, &wanted, relation.identity_columns())) {
                return None;
            }
            None
        }
        RelationKind::InheritanceParent => return None,
    };
    Some(FirstRows { of: relation.label(), index })
}

/// Whether an index has the first rows of an order, forwards or backwards. Of rows that tie in what the index has, those are sorted that
/// the order's remaining keys tell apart: only the identity's columns may remain, which are appended so that nothing ties.
fn reads_in_order(index: &[OrderKey], wanted: &[OrderKey], identity: &[String]) -> bool {
    let common = |index: &mut dyn Iterator<Item = OrderKey>| index.zip(wanted).take_while(|(has, wants)| has == *wants).count();
    let forwards = common(&mut index.iter().cloned());
    let backwards = common(&mut index.iter().map(OrderKey::reversed));
    let (read, rest) = wanted.split_at(forwards.max(backwards));
    let is_unique = !identity.is_empty() && identity.iter().all(|column| read.iter().any(|key| key.column == *column));
    !read.is_empty() && (is_unique || rest.iter().all(|key| identity.contains(&key.column)))
}

/// A key of ORDER BY that is a column.
struct SortKey {
    /// As an index has it: the column, its direction, where NULLs stand.
    printed: String,
    key: OrderKey,
}

fn key(sort: &Node, alias: &str, outputs: &[Node]) -> Option<SortKey> {
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
    let Some(NodeEnum::ColumnRef(reference)) = &value.node else { return None };
    let [column] = reference.fields.as_slice() else { return None };
    let column = syntax::string_of(column)?.to_owned();
    let descending = by.sortby_dir == SortByDir::SortbyDesc as i32;
    let nulls_first = match SortByNulls::try_from(by.sortby_nulls).ok()? {
        SortByNulls::SortbyNullsFirst => true,
        SortByNulls::SortbyNullsLast => false,
        SortByNulls::SortbyNullsDefault | SortByNulls::Undefined => descending,
    };
    let printed = syntax::print_sort(&sort).ok()?;
    Some(SortKey { printed, key: OrderKey { column, descending, nulls_first } })
}
