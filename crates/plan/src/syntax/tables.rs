//! The names in FROM, at any depth.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeVar, SelectStmt};

use super::walk::{clauses, for_each_subquery};

/// Calls `visit` for every name in FROM, WITH queries and subqueries included. WITH names are names too.
pub(crate) fn for_each_table(
    select: &mut SelectStmt,
    visit: &mut dyn FnMut(&mut RangeVar) -> Result<(), String>,
) -> Result<(), String> {
    for expression in select.with_clause.iter_mut().flat_map(|with| &mut with.ctes) {
        if let Some(NodeEnum::CommonTableExpr(expression)) = expression.node.as_mut()
            && let Some(NodeEnum::SelectStmt(query)) = expression.ctequery.as_mut().and_then(|query| query.node.as_mut())
        {
            for_each_table(query, visit)?;
        }
    }
    for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
        for_each_table(side, visit)?;
    }
    for item in &mut select.from_clause {
        in_item(item, visit)?;
    }
    clauses(select).into_iter().try_for_each(|clause| for_each_subquery(clause, &mut |inner| for_each_table(inner, visit)))
}

fn in_item(item: &mut Node, visit: &mut dyn FnMut(&mut RangeVar) -> Result<(), String>) -> Result<(), String> {
    match item.node.as_mut() {
        Some(NodeEnum::RangeVar(table)) => visit(table),
        Some(NodeEnum::JoinExpr(join)) => {
            for side in [&mut join.larg, &mut join.rarg].into_iter().flatten() {
                in_item(side, visit)?;
            }
            let condition = join.quals.as_deref_mut();
            condition.map_or(Ok(()), |condition| for_each_subquery(condition, &mut |inner| for_each_table(inner, visit)))
        }
        Some(NodeEnum::RangeSubselect(subselect)) => match subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) {
            Some(NodeEnum::SelectStmt(select)) => for_each_table(select, visit),
            Some(_) | None => Ok(()),
        },
        Some(NodeEnum::RangeFunction(function)) => {
            function.functions.iter_mut().try_for_each(|call| for_each_subquery(call, &mut |inner| for_each_table(inner, visit)))
        }
        Some(_) | None => Ok(()),
    }
}
