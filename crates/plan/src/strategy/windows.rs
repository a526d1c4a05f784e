//! Windows with PARTITION BY.
//!
//! The rule: `ω[p](C) = ⊎ q ∈ π[p] C: ω(σ[p = q] C)`. A partition is a group whose contributions stay rows: a change of C recomputes the
//! partitions that it left and joined. Windows with several partitions share what is common to all of them.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt};

use super::branches::Part;
use super::grouping::{Grouping, outputs};
use crate::model::contributions::{CONTRIBUTION_ALIAS, argument_column, group_column};
use crate::model::obstacle::Outcome;
use crate::model::plan::GroupForm;
use crate::syntax::{
    children, column_reference, common_partition, print_expression, reads_columns, target_expression, written_out,
};

/// Window functions: the rows of a partition see each other and no others.
pub(crate) fn by_partition(part: &Part, filter: Option<String>) -> Outcome<Grouping> {
    let select = &part.resolved.select;
    let partition = common_partition(select)?;
    let groups: Vec<String> = partition.iter().map(print_expression).collect::<Result<_, _>>()?;
    let texts = outputs(select)?;
    let group_outputs = groups.iter().map(|group| texts.iter().position(|text| text == group)).collect();
    let mut over = Over { groups: &groups, arguments: Vec::new(), select };
    let select_list = select
        .target_list
        .iter()
        .filter_map(target_expression)
        .map(|value| Ok(print_expression(&over.contributions(value.clone())?)?))
        .collect::<Outcome<_>>()?;
    let arguments = over.arguments;
    Ok(Grouping {
        groups,
        group_outputs,
        arguments,
        dependents: Vec::new(),
        select_list,
        form: GroupForm::Rows { filter },
        typed_as_output: false,
    })
}

/// Rewrites expressions with window functions so that they read contributions.
struct Over<'a> {
    groups: &'a [String],
    arguments: Vec<String>,
    select: &'a SelectStmt,
}

impl Over<'_> {
    fn contributions(&mut self, mut node: Node) -> Outcome<Node> {
        if !has_window(&mut node)? {
            return self.column(&node);
        }
        if let Some(NodeEnum::FuncCall(call)) = node.node.as_mut()
            && let Some(over) = call.over.as_deref_mut()
        {
            // Written out, because the select list is all that goes into the group query.
            *over = written_out(over, self.select);
            for child in children(&mut node)? {
                let slot = match child.node.as_mut() {
                    Some(NodeEnum::SortBy(sort)) => sort.node.as_deref_mut(),
                    Some(NodeEnum::NamedArgExpr(named)) => named.arg.as_deref_mut(),
                    Some(_) | None => Some(child),
                };
                if let Some(slot) = slot
                    && reads_columns(&mut slot.clone())?
                {
                    *slot = self.column(slot)?;
                }
            }
            return Ok(node);
        }
        for child in children(&mut node)? {
            *child = match child.node.as_ref() {
                Some(NodeEnum::CaseWhen(_) | NodeEnum::AIndices(_)) => self.inside(std::mem::take(child))?,
                Some(_) | None => self.contributions(std::mem::take(child))?,
            };
        }
        Ok(node)
    }

    /// A node that is no expression by itself.
    fn inside(&mut self, mut node: Node) -> Outcome<Node> {
        for child in children(&mut node)? {
            *child = self.contributions(std::mem::take(child))?;
        }
        Ok(node)
    }

    fn column(&mut self, node: &Node) -> Outcome<Node> {
        if !reads_columns(&mut node.clone())? {
            return Ok(node.clone());
        }
        let text = print_expression(node)?;
        let name = match self.groups.iter().position(|group| *group == text) {
            Some(group) => group_column(group),
            None => {
                let index = self.arguments.iter().position(|argument| *argument == text).unwrap_or_else(|| {
                    self.arguments.push(text);
                    self.arguments.len() - 1
                });
                argument_column(index)
            }
        };
        Ok(column_reference(CONTRIBUTION_ALIAS, &name))
    }
}

fn has_window(node: &mut Node) -> Outcome<bool> {
    if matches!(&node.node, Some(NodeEnum::FuncCall(call)) if call.over.is_some()) {
        return Ok(true);
    }
    for child in children(node)? {
        if has_window(child)? {
            return Ok(true);
        }
    }
    Ok(false)
}
