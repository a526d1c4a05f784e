//! Splitting an aggregation in two: contributions (one narrow row for each root row, before aggregation) and the user's own select
//! list and HAVING over them.
//!
//! The rule: `SELECT f(g, agg(a)) FROM … WHERE w GROUP BY g` equals `SELECT f(g, agg(a)) FROM contributions GROUP BY g` where
//! `contributions = SELECT k, g, a FROM … WHERE w`, k being the root's identity. A change of root row k replaces the
//! contribution k; the groups that it left and joined are recomputed by PostgreSQL's own aggregates. Hence every aggregate
//! works, and none needs an inverse.

use pg_query::NodeEnum;
use pg_query::protobuf::{ColumnRef, Node, ResTarget, SelectStmt};

use crate::facts::{Function, FunctionKind};
use crate::shape::{Obstacle, Outcome};
use crate::syntax::{children, column_reference, name_parts, print_expression, subtree_is_known};

/// The alias of the contributions in the group query.
pub(crate) const CONTRIBUTION_ALIAS: &str = "c";

/// An aggregation taken apart. The order of `groups` and `arguments` is the order of the contribution's columns.
#[derive(Debug)]
pub(crate) struct Split {
    /// The grouping expressions, printed.
    pub(crate) groups: Vec<String>,
    /// For each grouping expression the output column that is exactly it, if any.
    pub(crate) group_outputs: Vec<Option<usize>>,
    /// What the aggregates are fed, printed.
    pub(crate) arguments: Vec<String>,
    /// The argument columns that the grouping key determines.
    pub(crate) dependents: Vec<String>,
    /// The select list over the contributions.
    pub(crate) select_list: Vec<String>,
    /// HAVING over the contributions.
    pub(crate) having: Option<String>,
}

/// The column of group expression `index`, counted from 0.
pub(crate) fn group_column(index: usize) -> String {
    format!("g{}", index + 1)
}

/// The column of aggregate argument `index`, counted from 0.
pub(crate) fn argument_column(index: usize) -> String {
    format!("a{}", index + 1)
}

/// Whether the query aggregates at all.
pub(crate) fn is_aggregate(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    if !select.group_clause.is_empty() || select.having_clause.is_some() {
        return Ok(true);
    }
    for target in &select.target_list {
        if contains_aggregate(&mut target.clone(), functions)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes an aggregation apart. The SELECT's names must be qualified.
pub(crate) fn split(select: &SelectStmt, functions: &[Function]) -> Outcome<Split> {
    let mut splitter = Splitter { functions, groups: Vec::new(), arguments: Vec::new(), dependents: Vec::new() };
    for group in &select.group_clause {
        if matches!(&group.node, Some(NodeEnum::GroupingSet(_))) {
            return Err(Obstacle("it has grouping sets".to_owned()));
        }
        if matches!(&group.node, Some(NodeEnum::AConst(_))) {
            return Err(Obstacle("it groups by a constant".to_owned()));
        }
        subtree_is_known(group)?;
        splitter.groups.push(print_expression(group)?);
    }
    let mut select_list = Vec::new();
    let mut group_outputs = vec![None; splitter.groups.len()];
    for (position, target) in select.target_list.iter().enumerate() {
        let expression = target_expression(target)?;
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
    Ok(Split {
        groups: splitter.groups,
        group_outputs,
        arguments: splitter.arguments,
        dependents: splitter.dependents,
        select_list,
        having,
    })
}

fn target_expression(target: &Node) -> Outcome<Node> {
    match &target.node {
        Some(NodeEnum::ResTarget(target)) => {
            let ResTarget { val: Some(value), .. } = &**target else {
                return Err(Obstacle("an output column has no expression".to_owned()));
            };
            subtree_is_known(value)?;
            Ok((**value).clone())
        }
        Some(_) | None => Err(Obstacle("the select list has a construct that is not known".to_owned())),
    }
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
        let printed = print_expression(&node)?;
        if let Some(group) = self.groups.iter().position(|text| *text == printed) {
            return Ok(column_reference(CONTRIBUTION_ALIAS, &group_column(group)));
        }
        match &node.node {
            Some(NodeEnum::ColumnRef(reference)) => {
                refuse_whole_row(reference)?;
                return Ok(self.dependent_column(printed));
            }
            Some(NodeEnum::SubLink(_)) => {
                return Err(Obstacle("its select list or HAVING has a subquery beside aggregates".to_owned()));
            }
            _ if is_aggregate_call(&node, self.functions) => {
                self.feed_arguments(&mut node)?;
                return Ok(node);
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
        return Err(Obstacle("it aggregates whole rows".to_owned()));
    }
    Ok(())
}

fn reads_columns(node: &mut Node) -> Outcome<bool> {
    if matches!(&node.node, Some(NodeEnum::ColumnRef(_) | NodeEnum::SubLink(_))) {
        return Ok(true);
    }
    for child in children(node)? {
        if reads_columns(child)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains_aggregate(node: &mut Node, functions: &[Function]) -> Outcome<bool> {
    if is_aggregate_call(node, functions) {
        return Ok(true);
    }
    for child in children(node)? {
        if contains_aggregate(child, functions)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_aggregate_call(node: &Node, functions: &[Function]) -> bool {
    let Some(NodeEnum::FuncCall(call)) = &node.node else { return false };
    let parts = name_parts(&call.funcname);
    let (schema, name) = match parts.as_slice() {
        [name] => ("pg_catalog", *name),
        [schema, name] => (*schema, *name),
        _ => return false,
    };
    functions
        .iter()
        .any(|function| function.kind == FunctionKind::Aggregate && function.schema == schema && function.name == name)
}
