//! `DISTINCT ON`.
//!
//! The rule: `δ[g; o](C) = ⊎ q ∈ π[g] C: first[o](σ[g = q] C)`, a group of which the first by ORDER BY is the row. Plain DISTINCT is
//! grouping by all columns (`grouping`).

use pg_query::NodeEnum;

use super::branches::Part;
use super::grouping::{Grouping, outputs};
use crate::model::contributions::{CONTRIBUTION_ALIAS, argument_column, group_column};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::GroupForm;
use crate::syntax::{self, column_reference, print_expression};

/// `DISTINCT ON (…)`: of each group the first.
pub(crate) fn by_distinct_on(part: &Part) -> Outcome<Grouping> {
    let select = &part.resolved.select;
    let groups: Vec<String> = select.distinct_clause.iter().map(print_expression).collect::<Result<_, _>>()?;
    let mut arguments = Vec::new();
    let texts = outputs(select)?;
    let group_outputs = groups.iter().map(|group| texts.iter().position(|text| text == group)).collect();
    let mut column = |text: &str| {
        let name = match groups.iter().position(|group| group == text) {
            Some(group) => group_column(group),
            None => {
                let index = arguments.iter().position(|argument| argument == text).unwrap_or_else(|| {
                    arguments.push(text.to_owned());
                    arguments.len() - 1
                });
                argument_column(index)
            }
        };
        column_reference(CONTRIBUTION_ALIAS, &name)
    };
    let select_list = texts.iter().map(|text| print_expression(&column(text))).collect::<Result<_, _>>()?;
    let mut order = Vec::new();
    for sort in &select.sort_clause {
        let mut sort = sort.clone();
        let Some(NodeEnum::SortBy(by)) = sort.node.as_mut() else {
            return Err(Obstacle::new("its ORDER BY is of an unknown kind"));
        };
        let Some(value) = by.node.as_deref_mut() else { continue };
        *value = column(&print_expression(value)?);
        order.push(syntax::print_sort(&sort)?);
    }
    Ok(Grouping {
        groups,
        group_outputs,
        arguments,
        dependents: Vec::new(),
        select_list,
        form: GroupForm::First { order },
        typed_as_output: false,
    })
}
