//! Projections made of groups: which contributions, grouped by what, and what becomes of them.
//!
//! The rule: with contributions `C = ⊎ branches` and `Q = γ[g](C)`, the groups that can differ after the roots D changed are
//! `π[g] σ[k ∈ D] C ∪ π[g] σ[k ∈ D] C'`: those that they left and those that they joined. UNION is γ by all columns with each row once,
//! other set operations with each row as often as `normalise/union.rs` says; a result without any key is γ by all columns with each row as often as it occurs.

use pg_query::protobuf::SelectStmt;

use super::branches::Part;
use crate::model::contributions::{CONTRIBUTION_ALIAS, argument_column, group_column};
use crate::model::facts::{OutputColumn, Query};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::{Branch, GroupForm, GroupedPlan};
use crate::model::row_key::RowKey;
use crate::model::state::StateTable;
use crate::normalise::Combination;
use crate::syntax::{self, parse_expression, print_expression, target_expression};

/// What a SELECT contributes, and what is made of it. The order of `groups` and `arguments` is that of the contribution's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grouping {
    /// The grouping expressions, printed.
    pub(crate) groups: Vec<String>,
    /// For each the output column that is exactly it, if any.
    pub(crate) group_outputs: Vec<Option<usize>>,
    /// Other expressions that the result is made from, printed.
    pub(crate) arguments: Vec<String>,
    /// The argument columns that the grouping key determines.
    pub(crate) dependents: Vec<String>,
    /// The select list over the contributions.
    pub(crate) select_list: Vec<String>,
    pub(crate) form: GroupForm,
    /// Whether contributions have the result's own types: a branch of several has to agree with the others.
    pub(crate) typed_as_output: bool,
}

/// The grouping of a SELECT's rows that count once each: UNION and DISTINCT, or that count each: no key in the result.
pub(crate) fn by_all_columns(part: &Part, query: &Query, combination: &Combination) -> Outcome<Grouping> {
    if let Some(column) = query.columns.iter().find(|column| !column.hashable) {
        return Err(Obstacle::new(format!("its column {} has type {}, which cannot be hashed", column.name, column.type_name)));
    }
    let groups = outputs(&part.resolved.select)?;
    Ok(Grouping {
        group_outputs: (0..groups.len()).map(Some).collect(),
        select_list: (0..groups.len()).map(|n| format!("{CONTRIBUTION_ALIAS}.{}", group_column(n))).collect(),
        groups,
        arguments: Vec::new(),
        dependents: Vec::new(),
        form: match combination {
            Combination::All => GroupForm::Rows,
            Combination::Distinct => GroupForm::Aggregate { having: None },
            Combination::Counted { count, once } => GroupForm::Counted { count: count.clone(), once: *once },
        },
        typed_as_output: true,
    })
}

/// The output expressions, printed.
pub(super) fn outputs(select: &SelectStmt) -> Outcome<Vec<String>> {
    select
        .target_list
        .iter()
        .map(|target| match target_expression(target) {
            Some(value) => Ok(print_expression(value)?),
            None => Err(Obstacle::new("an output column has no expression")),
        })
        .collect()
}

/// Puts branches and their groupings together. All groupings must be alike but for names.
pub(crate) fn assemble(query: &Query, parts: &[(&Part, Grouping)]) -> Outcome<(GroupedPlan, RowKey)> {
    let Some((_, first)) = parts.first() else { return Err(Obstacle::new("it has no branch")) };
    let alike = |grouping: &Grouping| grouping.select_list == first.select_list && grouping.form == first.form;
    if !parts.iter().all(|(_, grouping)| alike(grouping)) {
        return Err(Obstacle::new("its branches do not have the same form"));
    }
    let by_root = rows_found_by_root(query, parts);
    let located: Vec<String> = match &by_root {
        Some(key) => key.clone(),
        None => first
            .group_outputs
            .iter()
            .zip(&first.groups)
            .map(|(position, group)| match position {
                Some(position) => Ok(query.columns[*position].name.clone()),
                None => Err(Obstacle::new(format!("the group expression {group} is not among its columns"))),
            })
            .collect::<Outcome<_>>()?,
    };
    let unhashable = |column: &&OutputColumn| located.contains(&column.name) && !column.hashable;
    if let Some(column) = query.columns.iter().find(unhashable) {
        return Err(Obstacle::new(format!(
            "the group column {} has type {}, which cannot be hashed",
            column.name, column.type_name
        )));
    }
    let branches = parts
        .iter()
        .enumerate()
        .map(|(number, (part, grouping))| branch(query, part, grouping, number, parts.len() > 1))
        .collect::<Outcome<Vec<_>>>()?;
    let key = match (&first.form, located.is_empty()) {
        _ if by_root.is_some() => RowKey::Primary(located),
        (GroupForm::Rows | GroupForm::Counted { once: false, .. }, _) => RowKey::Copies { within: located },
        (_, true) => RowKey::SingleRow,
        (_, false) => RowKey::Located(located),
    };
    let plan = GroupedPlan {
        branches,
        group_columns: (0..first.groups.len()).map(group_column).collect(),
        arms: Vec::new(),
        dependent_columns: first.dependents.clone(),
        select_list: first.select_list.clone(),
        form: first.form.clone(),
        found_by_root: by_root.is_some(),
        accumulators: None,
        recomputed_because: None,
    };
    Ok((plan, key))
}

/// The output columns that are the root's key, where each contribution is one row and the groups' columns are not in the result.
fn rows_found_by_root(query: &Query, parts: &[(&Part, Grouping)]) -> Option<Vec<String>> {
    let [(part, grouping)] = parts else { return None };
    let hidden = grouping.form == GroupForm::Rows && grouping.group_outputs.iter().any(Option::is_none);
    if !hidden || part.fans_out || part.key_outputs.is_empty() {
        return None;
    }
    Some(part.key_outputs.iter().map(|&position| query.columns[position].name.clone()).collect())
}

fn branch(query: &Query, part: &Part, grouping: &Grouping, number: usize, one_of_many: bool) -> Outcome<Branch> {
    let root = part.root(query);
    let key: Vec<String> = (1..=root.key.len()).map(|n| format!("k{n}")).collect();
    let groups: Vec<String> = (0..grouping.groups.len()).map(group_column).collect();
    let arguments: Vec<String> = (0..grouping.arguments.len()).map(argument_column).collect();
    let mut select = part.resolved.select.clone();
    let exposed = part.expose_key(&mut select, &root)?;
    select.sort_clause.clear();
    select.group_clause.clear();
    select.distinct_clause.clear();
    select.window_clause.clear();
    select.having_clause = None;
    let keys = key.iter().cloned().zip(exposed);
    let cast = |position: usize, text: &String| {
        let typed = query.columns.get(position).filter(|_| grouping.typed_as_output && one_of_many);
        typed.map_or_else(|| text.clone(), |column| format!("({text})::{}", column.typed()))
    };
    let values = groups
        .iter()
        .zip(grouping.groups.iter().enumerate().map(|(position, text)| cast(position, text)))
        .chain(arguments.iter().zip(grouping.arguments.iter().cloned()))
        .map(|(name, text)| Ok((name.clone(), parse_expression(&text)?)))
        .collect::<Outcome<Vec<_>>>()?;
    select.target_list = keys.chain(values).map(|(name, value)| syntax::target(&name, value)).collect();
    let mut branch = part.branch(select, query, number)?;
    let suffix = if number == 0 { String::new() } else { (number + 1).to_string() };
    branch.contributions = Some(StateTable {
        name: format!("{}_contribution{suffix}", query.projection),
        purpose: if part.fans_out {
            format!("the rows that each row of {}.{} makes, before grouping", root.schema, root.name)
        } else {
            format!("the row that each row of {}.{} makes, before grouping", root.schema, root.name)
        },
        columns: key.iter().chain(&groups).chain(&arguments).cloned().collect(),
        types: Vec::new(),
        domains: Vec::new(),
        key,
        located_by: groups,
        many_per_key: part.fans_out,
        definition: branch.query.clone(),
    });
    Ok(branch)
}
