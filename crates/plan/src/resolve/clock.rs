//! The time in a query.
//!
//! `column > now() - interval '30 days'` changes its answer without any change of a row. For one row with value x the answer depends on
//! the order of x and the bound only. So between two times it can differ only if x lies between the two bounds, both included; whatever
//! the operator, and however the bound moves. Those rows are dirty. The time anywhere else than in such a comparison cannot be followed.

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, Node, SelectStmt, SqlValueFunctionOp};

use super::expression::{contains_clock, see_through};
use super::{Context, Resolver, Source};
use crate::aggregate;
use crate::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, any, children, clauses, for_each_subquery, name_parts, print_expression};

/// A comparison of a row's value with a bound that moves with the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClockComparison {
    pub(crate) occurrence: usize,
    /// The value: an expression over the occurrence's columns.
    pub(crate) side: String,
    /// The column that it is, if it is one.
    pub(crate) column: Option<String>,
    /// The bound, printed.
    pub(crate) bound: String,
    /// The bound at the time `$1::text::timestamptz`.
    pub(crate) bound_before: String,
}

const COMPARISONS: [&str; 6] = ["<", "<=", ">", ">=", "=", "<>"];

impl Resolver<'_> {
    /// Resolves a comparison that asks for the time on one side; `None` if the node is something else.
    pub(super) fn clock_comparison(&mut self, node: &mut Node) -> Option<Outcome<()>> {
        let Some(NodeEnum::AExpr(comparison)) = node.node.as_mut() else { return None };
        let operator = name_parts(&comparison.name);
        let is_comparison =
            comparison.kind == AExprKind::AexprOp as i32 && matches!(operator.as_slice(), [one] if COMPARISONS.contains(one));
        if !is_comparison {
            return None;
        }
        let (Some(left), Some(right)) = (comparison.lexpr.as_deref_mut(), comparison.rexpr.as_deref_mut()) else { return None };
        let (side, bound) = match (contains_clock(left).ok()?, contains_clock(right).ok()?) {
            (false, true) => (left, right),
            (true, false) => (right, left),
            (false, false) | (true, true) => return None,
        };
        Some(self.resolve_comparison(side, bound, comparison.location))
    }

    fn resolve_comparison(&mut self, side: &mut Node, bound: &mut Node, location: i32) -> Outcome<()> {
        self.expression(side, Context::Value)?;
        self.inside_bound = true;
        let bound_resolved = self.expression(bound, Context::Value);
        self.inside_bound = false;
        bound_resolved?;
        match self.comparison(side, bound)? {
            Some(found) => {
                if !self.clocks.contains(&found) {
                    self.clocks.push(found);
                }
                Ok(())
            }
            None => Err(elsewhere(location)),
        }
    }

    fn comparison(&self, side: &Node, bound: &Node) -> Outcome<Option<ClockComparison>> {
        let Some(side) = see_through(side, &self.names, &self.derived) else { return Ok(None) };
        if super::equality::contains_subquery(&side)? || super::equality::contains_subquery(bound)? {
            return Ok(None);
        }
        let many_rows = any(&side, &|node| {
            aggregate::is_aggregate_call(node, self.functions)
                || matches!(&node.node, Some(NodeEnum::FuncCall(call)) if call.over.is_some())
        })?;
        if many_rows {
            return Ok(None);
        }
        let (Ok(sides), Ok(bounds)) = (self.references(&side), self.references(bound)) else { return Ok(None) };
        let ([occurrence], true) = (&sides.into_iter().collect::<Vec<_>>()[..], bounds.is_empty()) else { return Ok(None) };
        let Source::Table(relation) = &self.occurrences[*occurrence].source else { return Ok(None) };
        if self.relations[*relation].identity_columns().is_empty() {
            return Ok(None);
        }
        Ok(Some(ClockComparison {
            occurrence: *occurrence,
            side: print_expression(&side)?,
            column: self.plain_column(&side).map(|(_, column)| column),
            bound: print_expression(bound)?,
            bound_before: print_expression(&at(bound)?)?,
        }))
    }

    /// Refuses the time outside the bound of a comparison.
    pub(super) fn meet_clock(&self, node: &Node) -> Outcome<()> {
        match asks(node) {
            Some(location) if !self.inside_bound => Err(elsewhere(location)),
            Some(_) | None => Ok(()),
        }
    }
}

fn elsewhere(location: i32) -> Obstacle {
    Obstacle::at("it asks for the time outside a comparison with a column of a table", location)
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
            let is_clock = super::expression::TIME_FUNCTIONS.contains(&name.as_str()) || (name == "age" && call.args.len() == 1);
            is_clock.then_some(call.location)
        }
        Some(_) | None => None,
    }
}

/// The expression with the transaction's time replaced by the parameter.
fn at(node: &Node) -> Outcome<Node> {
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

/// Replaces the transaction's time by the parameter everywhere in a SELECT; false if the time is asked for nowhere.
///
/// # Errors
/// Some part asks for the statement's time, or is not known.
pub(crate) fn fix_time(select: &mut SelectStmt) -> Outcome<bool> {
    let mut found = false;
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
