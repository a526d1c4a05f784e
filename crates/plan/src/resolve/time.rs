//! Where a tree asks for the time, and the same with a time in its place.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt, SqlValueFunctionOp};

use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, any, children, clauses, for_each_subquery, name_parts};

/// Functions whose result is the transaction's or statement's time.
const TIME_FUNCTIONS: [&str; 3] = ["now", "transaction_timestamp", "statement_timestamp"];

/// Whether an expression asks for the time.
pub(crate) fn contains_clock(node: &Node) -> Outcome<bool> {
    Ok(any(node, &|node| asks(node).is_some())?)
}

/// The place where this very node asks for the time.
pub(super) fn asks(node: &Node) -> Option<i32> {
    match &node.node {
        // CURRENT_DATE to LOCALTIMESTAMP(n); those after are CURRENT_USER and its like.
        Some(NodeEnum::SqlvalueFunction(function)) => {
            (function.op <= SqlValueFunctionOp::SvfopLocaltimestampN as i32).then_some(function.location)
        }
        Some(NodeEnum::FuncCall(call)) => {
            let name = name_parts(&call.funcname).last().copied().unwrap_or_default().to_owned();
            let is_clock = TIME_FUNCTIONS.contains(&name.as_str()) || (name == "age" && call.args.len() == 1);
            is_clock.then_some(call.location)
        }
        Some(_) | None => None,
    }
}

/// The expression with the transaction's time replaced by the parameter.
pub(super) fn at(node: &Node) -> Outcome<Node> {
    const TIME: &str = "CAST(CAST($1 AS text) AS timestamptz)";
    let mut copy = node.clone();
    if let Some(location) = asks(&copy) {
        let text = match &copy.node {
            Some(NodeEnum::SqlvalueFunction(function)) => {
                let precision = if function.typmod >= 0 { format!("({})", function.typmod) } else { String::new() };
                let type_name =
                    match SqlValueFunctionOp::try_from(function.op).unwrap_or(SqlValueFunctionOp::SqlvalueFunctionOpUndefined) {
                        SqlValueFunctionOp::SvfopCurrentDate => "date".to_owned(),
                        SqlValueFunctionOp::SvfopCurrentTime | SqlValueFunctionOp::SvfopCurrentTimeN => {
                            format!("time{precision} with time zone")
                        }
                        SqlValueFunctionOp::SvfopCurrentTimestamp | SqlValueFunctionOp::SvfopCurrentTimestampN => {
                            format!("timestamp{precision} with time zone")
                        }
                        SqlValueFunctionOp::SvfopLocaltime | SqlValueFunctionOp::SvfopLocaltimeN => format!("time{precision}"),
                        _ => format!("timestamp{precision}"),
                    };
                format!("CAST({TIME} AS {type_name})")
            }
            Some(NodeEnum::FuncCall(call)) => match name_parts(&call.funcname).last().copied().unwrap_or_default() {
                // The statement's time is another one in each statement of a batch.
                "now" | "transaction_timestamp" => TIME.to_owned(),
                _ => return Err(elsewhere(location)),
            },
            Some(_) | None => return Err(elsewhere(location)),
        };
        return Ok(syntax::parse_expression(&text)?);
    }
    for child in children(&mut copy)? {
        *child = at(child)?;
    }
    Ok(copy)
}

pub(super) fn elsewhere(location: i32) -> Obstacle {
    Obstacle::at("it asks for the time outside a comparison with a column of a table", location).instead(
        "compare a column with it (WHERE t.at > now() - interval '1 day'), and leave what is computed from it to whoever reads",
    )
}

/// Replaces the transaction's time by the parameter everywhere in a SELECT; false if the time is asked for nowhere.
///
/// # Errors
/// Some part asks for the statement's time, or is not known.
pub(crate) fn fix_time(select: &mut SelectStmt) -> Outcome<bool> {
    let mut found = false;
    for expression in select.with_clause.iter_mut().flat_map(|with| &mut with.ctes) {
        if let Some(NodeEnum::CommonTableExpr(expression)) = expression.node.as_mut()
            && let Some(NodeEnum::SelectStmt(query)) = expression.ctequery.as_mut().and_then(|query| query.node.as_mut())
        {
            found |= fix_time(query)?;
        }
    }
    for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
        found |= fix_time(side)?;
    }
    for item in &mut select.from_clause {
        found |= fix_item(item)?;
    }
    for clause in clauses(select) {
        found |= fix_expression(clause)?;
    }
    Ok(found)
}

fn fix_item(item: &mut Node) -> Outcome<bool> {
    match item.node.as_mut() {
        Some(NodeEnum::JoinExpr(join)) => {
            let mut found = false;
            for side in [&mut join.larg, &mut join.rarg].into_iter().flatten() {
                found |= fix_item(side)?;
            }
            Ok(found | join.quals.as_deref_mut().map_or(Ok(false), fix_expression)?)
        }
        Some(NodeEnum::RangeSubselect(subselect)) => match subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) {
            Some(NodeEnum::SelectStmt(select)) => fix_time(select),
            Some(_) | None => Ok(false),
        },
        Some(NodeEnum::RangeFunction(function)) => {
            let mut found = false;
            for call in &mut function.functions {
                found |= fix_expression(call)?;
            }
            Ok(found)
        }
        Some(_) | None => Ok(false),
    }
}

fn fix_expression(node: &mut Node) -> Outcome<bool> {
    let mut found = contains_clock(node)?;
    if found {
        *node = at(node)?;
    }
    let mut failed = None;
    for_each_subquery(node, &mut |select| {
        match fix_time(select) {
            Ok(inside) => found |= inside,
            Err(obstacle) => failed = failed.take().or(Some(obstacle)),
        }
        Ok(())
    })?;
    failed.map_or(Ok(found), Err)
}
