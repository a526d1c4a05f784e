//! Splitting an aggregation in two: contributions (one narrow row for each root row, before aggregation) and the user's own select
//! list and HAVING over them.
//!
//! The rule: `SELECT f(g, agg(a)) FROM … WHERE w GROUP BY g` equals `SELECT f(g, agg(a)) FROM contributions GROUP BY g` where
//! `contributions = SELECT k, g, a FROM … WHERE w`, k being the root's identity. A change of root row k replaces the
//! contribution k; the groups that it left and joined are recomputed by PostgreSQL's own aggregates. Hence every aggregate
//! works, and none needs an inverse.

use pg_query::NodeEnum;
use pg_query::protobuf::{ColumnRef, Node, SelectStmt};

use super::grouping::Grouping;
use crate::model::contributions::{CONTRIBUTION_ALIAS, argument_column, group_column};
use crate::model::facts::Function;
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::GroupForm;
use crate::syntax::{
    aggregates_outer_rows, children, column_reference, contains_aggregate, is_aggregate_call, print_expression, reads_columns,
    target_expression,
};

/// Takes an aggregation apart. The SELECT's names must be qualified.
pub(crate) fn split(select: &SelectStmt, functions: &[Function]) -> Outcome<Grouping> {
    let mut splitter = Splitter { functions, groups: Vec::new(), arguments: Vec::new(), dependents: Vec::new() };
    for group in &select.group_clause {
        if let Some(NodeEnum::GroupingSet(sets)) = &group.node {
            return Err(Obstacle::at("it has grouping sets", sets.location));
        }
        if matches!(&group.node, Some(NodeEnum::AConst(_))) {
            return Err(Obstacle::new("it groups by a constant"));
        }
        splitter.groups.push(print_expression(group)?);
    }
    let mut select_list = Vec::new();
    let mut group_outputs = vec![None; splitter.groups.len()];
    for (position, target) in select.target_list.iter().enumerate() {
        let Some(expression) = target_expression(target).cloned() else {
            return Err(Obstacle::new("an output column has no expression"));
        };
        let printed = print_expression(&expression)?;
        if let Some(group) = splitter.groups.iter().position(|text| *text == printed) {
            group_outputs[group].get_or_insert(position);
        }
        select_list.push(print_expression(&splitter.over_contributions(expression)?)?);
    }
    let having = match &select.having_clause {
        Some(condition) => Some(print_expression(&splitter.over_contributions((**condition).clone())?)?),
        None => None,
    };
    // There is a row also where there are none to keep such a value in.
    if splitter.groups.is_empty() && !splitter.dependents.is_empty() {
        return Err(Obstacle::new("it has a value beside an aggregation over all rows that is no aggregate")
            .instead("write both as subqueries in FROM of one row each, with CROSS JOIN"));
    }
    Ok(Grouping {
        groups: splitter.groups,
        group_outputs,
        arguments: splitter.arguments,
        dependents: splitter.dependents,
        select_list,
        form: GroupForm::Aggregate { having },
        typed_as_output: false,
    })
}

struct Splitter<'a> {
    functions: &'a [Function],
    groups: Vec<String>,
    arguments: Vec<String>,
    dependents: Vec<String>,
}

impl Splitter<'_> {
    /// Rewrites an expression of the select list or HAVING so that it reads contributions.
    fn over_contributions(&mut self, mut node: Node) -> Outcome<Node> {
        // `[1]` is no expression by itself.
        if matches!(&node.node, Some(NodeEnum::AIndices(_))) {
            for child in children(&mut node)? {
                *child = self.over_contributions(std::mem::take(child))?;
            }
            return Ok(node);
        }
        let printed = print_expression(&node)?;
        if let Some(group) = self.groups.iter().position(|text| *text == printed) {
            return Ok(column_reference(CONTRIBUTION_ALIAS, &group_column(group)));
        }
        match &node.node {
            Some(NodeEnum::ColumnRef(reference)) => {
                refuse_whole_row(reference)?;
                return Ok(self.dependent_column(printed));
            }
            // It refers to grouping columns only, so the grouping key determines it.
            Some(NodeEnum::SubLink(link)) => {
                if aggregates_outer_rows(&node, self.functions)? {
                    return Err(Obstacle::at("a subquery aggregates rows of the query around it", link.location));
                }
                return Ok(self.dependent_column(printed));
            }
            _ if is_aggregate_call(&node, self.functions) => {
                self.feed_arguments(&mut node)?;
                return Ok(node);
            }
            // Compared for each row, so that the group is seen to change when the time passes the bound.
            Some(NodeEnum::AExpr(_))
                if crate::resolve::contains_clock(&node)? && !contains_aggregate(&mut node.clone(), self.functions)? =>
            {
                return Ok(self.dependent_column(printed));
            }
            Some(_) | None => {}
        }
        for child in children(&mut node)? {
            let rewritten = self.over_contributions(std::mem::take(child))?;
            *child = rewritten;
        }
        Ok(node)
    }

    /// A column outside GROUP BY, allowed because the grouping key determines it: all contributions of a group agree on it, so
    /// grouping by it too changes nothing.
    fn dependent_column(&mut self, printed: String) -> Node {
        let column = self.argument(printed);
        if !self.dependents.contains(&column) {
            self.dependents.push(column.clone());
        }
        column_reference(CONTRIBUTION_ALIAS, &column)
    }

    /// Replaces what an aggregate is fed by contribution columns: arguments, ORDER BY, FILTER.
    ///
    /// The direct arguments of an ordered-set aggregate are no rows' values: they may refer to groups only.
    fn feed_arguments(&mut self, call: &mut Node) -> Outcome<()> {
        if let Some(NodeEnum::FuncCall(call)) = call.node.as_mut()
            && call.agg_within_group
        {
            for direct in std::mem::take(&mut call.args) {
                let rewritten = self.over_contributions(direct)?;
                call.args.push(rewritten);
            }
            for sort in &mut call.agg_order {
                if let Some(NodeEnum::SortBy(sort)) = sort.node.as_mut()
                    && let Some(slot) = sort.node.as_deref_mut()
                {
                    self.feed(slot)?;
                }
            }
            return call.agg_filter.as_deref_mut().map_or(Ok(()), |filter| self.feed(filter));
        }
        for child in children(call)? {
            let slot = match child.node.as_mut() {
                Some(NodeEnum::SortBy(sort)) => sort.node.as_deref_mut(),
                Some(NodeEnum::NamedArgExpr(named)) => named.arg.as_deref_mut(),
                Some(_) | None => Some(child),
            };
            if let Some(slot) = slot {
                self.feed(slot)?;
            }
        }
        Ok(())
    }

    fn feed(&mut self, slot: &mut Node) -> Outcome<()> {
        if reads_columns(&mut slot.clone())? {
            if let Some(NodeEnum::ColumnRef(reference)) = &slot.node {
                refuse_whole_row(reference)?;
            }
            let column = self.argument(print_expression(slot)?);
            *slot = column_reference(CONTRIBUTION_ALIAS, &column);
        }
        Ok(())
    }

    fn argument(&mut self, printed: String) -> String {
        let index = self.arguments.iter().position(|text| *text == printed).unwrap_or_else(|| {
            self.arguments.push(printed);
            self.arguments.len() - 1
        });
        argument_column(index)
    }
}

/// `t.*` as a value prints like a list of columns and would become one.
fn refuse_whole_row(reference: &ColumnRef) -> Outcome<()> {
    if reference.fields.iter().any(|field| matches!(&field.node, Some(NodeEnum::AStar(_)))) {
        return Err(Obstacle::at("it aggregates whole rows", reference.location));
    }
    Ok(())
}
