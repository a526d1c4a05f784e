//! Projections made of groups: which contributions, grouped by what, and what becomes of them.
//!
//! The rule: with contributions `C = ⊎ branches` and `Q = γ[g](C)`, the groups that can differ after the roots D changed are
//! `π[g] σ[k ∈ D] C ∪ π[g] σ[k ∈ D] C'`: those that they left and those that they joined. UNION is γ by all columns with each row once,
//! other set operations with each row as often as `normalise/union.rs` says; a result without any key is γ by all columns with each row as often as it occurs.

use pg_query::protobuf::{Node, SelectStmt};

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
            Combination::All => GroupForm::Rows { filter: None },
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
    Ok(of_branches(first, branches, located, by_root.is_some()))
}

/// The plan whose groups, found by the columns `located`, are made of the branches' contributions.
pub(super) fn of_branches(
    grouping: &Grouping,
    branches: Vec<Branch>,
    located: Vec<String>,
    found_by_root: bool,
) -> (GroupedPlan, RowKey) {
    let key = match (&grouping.form, located.is_empty()) {
        _ if found_by_root => RowKey::Primary(located),
        (GroupForm::Rows { .. } | GroupForm::Counted { once: false, .. }, _) => RowKey::Copies { within: located },
        (_, true) => RowKey::SingleRow,
        (_, false) => RowKey::Located(located),
    };
    let plan = GroupedPlan {
        branches,
        group_columns: (0..grouping.groups.len()).map(group_column).collect(),
        arms: Vec::new(),
        dependent_columns: grouping.dependents.clone(),
        select_list: grouping.select_list.clone(),
        form: grouping.form.clone(),
        found_by_root,
        accumulators: None,
        recomputed_because: None,
    };
    (plan, key)
}

/// The output columns that are the root's key, where each contribution is one row and the groups' columns are not in the result.
fn rows_found_by_root(query: &Query, parts: &[(&Part, Grouping)]) -> Option<Vec<String>> {
    let [(part, grouping)] = parts else { return None };
    // Where a limit is put on the rows, one may go although its root has a contribution.
    let hidden = grouping.form == GroupForm::Rows { filter: None } && grouping.group_outputs.iter().any(Option::is_none);
    if !hidden || part.fans_out || part.key_outputs.is_empty() {
        return None;
    }
    Some(part.key_outputs.iter().map(|&position| query.columns[position].name.clone()).collect())
}

/// The branch of a part, with its contributions.
pub(super) fn branch(query: &Query, part: &Part, grouping: &Grouping, number: usize, one_of_many: bool) -> Outcome<Branch> {
    let root = part.root(query);
    let mut select = part.resolved.select.clone();
    let exposed = part.expose_key(&mut select, &root)?;
    select.sort_clause.clear();
    select.group_clause.clear();
    select.distinct_clause.clear();
    select.window_clause.clear();
    select.having_clause = None;
    select.target_list = contribution(query, grouping, exposed, one_of_many)?;
    let mut branch = part.branch(select, query, number)?;
    branch.contributions = Some(contributions(query, grouping, &branch, number));
    Ok(branch)
}

/// The select list of contributions: the root's key, what they are grouped by, what else the result is made from.
pub(super) fn contribution(query: &Query, grouping: &Grouping, keys: Vec<Node>, one_of_many: bool) -> Outcome<Vec<Node>> {
    let cast = |position: usize, text: &String| {
        let typed = query.columns.get(position).filter(|_| grouping.typed_as_output && one_of_many);
        typed.map_or_else(|| text.clone(), |column| format!("({text})::{}", column.typed()))
    };
    let keys = keys.into_iter().enumerate().map(|(n, key)| Ok(syntax::target(&format!("k{}", n + 1), key)));
    let groups = grouping
        .groups
        .iter()
        .enumerate()
        .map(|(n, text)| Ok(syntax::target(&group_column(n), parse_expression(&cast(n, text))?)));
    let arguments =
        grouping.arguments.iter().enumerate().map(|(n, text)| Ok(syntax::target(&argument_column(n), parse_expression(text)?)));
    keys.chain(groups).chain(arguments).collect()
}

/// The table of a branch's contributions.
pub(super) fn contributions(query: &Query, grouping: &Grouping, branch: &Branch, number: usize) -> StateTable {
    let Branch { root, fans_out, .. } = branch;
    let key: Vec<String> = (1..=root.key.len()).map(|n| format!("k{n}")).collect();
    let groups: Vec<String> = (0..grouping.groups.len()).map(group_column).collect();
    let arguments: Vec<String> = (0..grouping.arguments.len()).map(argument_column).collect();
    let suffix = if number == 0 { String::new() } else { (number + 1).to_string() };
    let rows = if *fans_out { "rows" } else { "row" };
    StateTable {
        name: format!("{}_contribution{suffix}", query.projection),
        purpose: format!("the {rows} that each row of {}.{} makes, before grouping", root.schema, root.name),
        columns: key.iter().chain(&groups).chain(&arguments).cloned().collect(),
        types: Vec::new(),
        domains: Vec::new(),
        key,
        located_by: groups,
        many_per_key: *fans_out,
        definition: branch.query.clone(),
    }
}
