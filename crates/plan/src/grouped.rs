//! Projections made of groups: which contributions, grouped by what, and what becomes of them.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt};

use crate::aggregate::{self, CONTRIBUTION_ALIAS, argument_column, group_column};
use crate::branch::Part;
use crate::facts::{OutputColumn, Query};
use crate::normalise::Combination;
use crate::obstacle::{Obstacle, Outcome};
use crate::plan::{Branch, GroupForm, GroupedPlan};
use crate::sql::{RowKey, StateTable};
use crate::syntax::{self, children, column_reference, parse_expression, print_expression, target_expression};

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
pub(crate) fn by_all_columns(part: &Part, query: &Query, combination: Combination) -> Outcome<Grouping> {
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
        },
        typed_as_output: true,
    })
}

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

/// Window functions: the rows of a partition see each other and no others.
pub(crate) fn by_partition(part: &Part) -> Outcome<Grouping> {
    let select = &part.resolved.select;
    let partition = aggregate::common_partition(select)?;
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
        form: GroupForm::Rows,
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
            *over = aggregate::written_out(over, self.select);
            for child in children(&mut node)? {
                let slot = match child.node.as_mut() {
                    Some(NodeEnum::SortBy(sort)) => sort.node.as_deref_mut(),
                    Some(NodeEnum::NamedArgExpr(named)) => named.arg.as_deref_mut(),
                    Some(_) | None => Some(child),
                };
                if let Some(slot) = slot
                    && aggregate::reads_columns(&mut slot.clone())?
                {
                    *slot = self.column(slot)?;
                }
            }
            return Ok(node);
        }
        for child in children(&mut node)? {
            *child = match child.node.as_ref() {
                Some(NodeEnum::CaseWhen(_)) => self.inside(std::mem::take(child))?,
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
        if !aggregate::reads_columns(&mut node.clone())? {
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

/// The output expressions, printed.
fn outputs(select: &SelectStmt) -> Outcome<Vec<String>> {
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
        (GroupForm::Rows, _) => RowKey::Copies { within: located },
        (_, true) => RowKey::SingleRow,
        (_, false) => RowKey::Located(located),
    };
    let plan = GroupedPlan {
        branches,
        group_columns: (0..first.groups.len()).map(group_column).collect(),
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
