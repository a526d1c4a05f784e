//! The time in a query.
//!
//! `column > now() - interval '30 days'` changes its answer without any change of a row. For one row with value x the answer depends on
//! the order of x and the bound only. So between two times it can differ only if x lies between the two bounds, both included; whatever
//! the operator, and however the bound moves. Those rows are dirty. The time anywhere else than in such a comparison cannot be followed.

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, Node};

use super::scope::{ClockComparison, Context, Resolver, Source, contains_subquery, see_through};
use super::time::{asks, at, contains_clock, elsewhere};

use crate::model::obstacle::Outcome;
use crate::syntax::{any, is_aggregate_call, name_parts, print_expression};

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
        if contains_subquery(&side)? || contains_subquery(bound)? {
            return Ok(None);
        }
        let many_rows = any(&side, &|node| {
            is_aggregate_call(node, self.functions) || matches!(&node.node, Some(NodeEnum::FuncCall(call)) if call.over.is_some())
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
