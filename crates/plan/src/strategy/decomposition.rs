//! Taking a query apart into inner projections and an outer query over their tables.
//!
//! What cannot be maintained row by row often stands over something that can, and that is small: a window over monthly sums, a ratio of
//! two totals, the first ten of a grouping. The inner part is then a projection of its own, hidden, and the outer query is recomputed
//! over its table, when it has changed.
//!
//! The rule: `Q = O(I…)` for blocks I that a strategy maintains; O is recomputed when a batch wrote a row of some I, and only then.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, Node, RangeSubselect, RangeVar, SelectStmt};

use super::chains::stand_in;
use crate::model::contributions::{CONTRIBUTION_ALIAS, argument_column, group_column};
use crate::model::facts::{Function, Query};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::normalise;
use crate::syntax::{
    self, children, clauses, column_reference, for_each_item, for_each_select_inside, for_each_table, print_expression,
    print_select_pretty, string_of, with_large_stack, wrap,
};

/// A query taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decomposition {
    /// The inner projections: name and query. None reads another.
    pub inner: Vec<(String, String)>,
    /// The outer query, over their stand-ins.
    pub outer: String,
}

/// Takes a query apart, if it can be.
pub fn decompose(query: &Query) -> Option<Decomposition> {
    with_large_stack(|| take_apart(query).ok()).ok().flatten()
}

pub(super) fn take_apart(query: &Query) -> Outcome<Decomposition> {
    let mut select = syntax::parse_select(&query.sql)?;
    normalise::inline(&mut select, &query.views)?;
    let mut parts = Parts::new(query, &select)?;
    if syntax::is_set_operation(&select) {
        parts.arms(&mut select)?;
    } else {
        parts.name_outputs(&mut select);
        if is_more_than_aggregation(&select, &query.functions)? {
            select = parts.over_aggregation(select)?;
        } else {
            parts.subqueries_in_from(&mut select)?;
        }
    }
    let mut table_left = false;
    for_each_table(&mut select, &mut |table| {
        table_left |= !table.schemaname.is_empty();
        Ok(())
    })?;
    if table_left || parts.inner.is_empty() {
        return Err(Obstacle::new("it reads tables beside what could be a projection"));
    }
    Ok(Decomposition { inner: parts.inner, outer: print_select_pretty(&select)? })
}

/// Whether something is done to the groups that an aggregation alone does not: windows, LIMIT, DISTINCT, leaving out a grouping column.
fn is_more_than_aggregation(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    if !syntax::is_aggregate(select, functions)? {
        return Ok(false);
    }
    let outputs: Vec<String> =
        select.target_list.iter().filter_map(syntax::target_expression).map(print_expression).collect::<Result<_, _>>()?;
    let groups: Vec<String> =
        normalise::grouped_by(&select.group_clause)?.iter().map(print_expression).collect::<Result<_, _>>()?;
    Ok(syntax::has_window(select)?
        || select.limit_count.is_some()
        || select.limit_offset.is_some()
        || !select.distinct_clause.is_empty()
        || !groups.iter().all(|group| outputs.contains(group)))
}

/// The inner queries that were found.
pub(super) struct Parts<'a> {
    pub(super) query: &'a Query,
    pub(super) inner: Vec<(String, String)>,
    /// What the query uses as a whole row: `s.*`.
    rows_used: BTreeSet<String>,
}

impl<'a> Parts<'a> {
    /// Of a query, of which `select` is the text with views written out.
    pub(super) fn new(query: &'a Query, select: &SelectStmt) -> Outcome<Self> {
        Ok(Self { query, inner: Vec::new(), rows_used: syntax::whole_rows(select)? })
    }
}

impl Parts<'_> {
    /// Gives a SELECT's columns the names of the result's.
    pub(super) fn name_outputs(&self, select: &mut SelectStmt) {
        for (target, column) in select.target_list.iter_mut().zip(&self.query.columns) {
            if let Some(NodeEnum::ResTarget(target)) = target.node.as_mut() {
                target.name.clone_from(&column.name);
            }
        }
    }

    /// The result's columns, read from an alias.
    pub(super) fn outputs(&self, alias: &str) -> Vec<Node> {
        self.query.columns.iter().map(|column| syntax::target("", column_reference(alias, &column.name))).collect()
    }

    /// The stand-in's name for an inner query; equal queries are one.
    pub(super) fn add(&mut self, select: &SelectStmt) -> Outcome<String> {
        let mut select = select.clone();
        expose_groups(&mut select, &self.query.functions);
        let sql = print_select_pretty(&select)?;
        if let Some((name, _)) = self.inner.iter().find(|(_, found)| *found == sql) {
            return Ok(name.clone());
        }
        let name = format!("{}__part{}", self.query.projection, self.inner.len() + 1);
        self.inner.push((name.clone(), sql));
        Ok(name)
    }

    /// Every branch of a UNION becomes an inner projection.
    fn arms(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        if syntax::is_set_operation(select) {
            for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
                self.arms(side)?;
            }
            return Ok(());
        }
        self.name_outputs(select);
        let name = self.add(select)?;
        *select = over(&name, "part", self.outputs("part"));
        Ok(())
    }

    /// Subqueries in FROM become inner projections, at this level and in subqueries of expressions.
    fn subqueries_in_from(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        for_each_item(select, &mut |item| match &item.node {
            Some(NodeEnum::RangeSubselect(subselect)) if !subselect.lateral => self.block(item),
            Some(_) | None => Ok(()),
        })?;
        for_each_select_inside(select, &mut |inner| self.subqueries_in_from(inner))
    }

    /// Whether the query reads a whole row of a subquery in FROM.
    pub(super) fn is_used_as_row(&self, subselect: &RangeSubselect) -> bool {
        subselect.alias.as_ref().is_none_or(|alias| self.rows_used.contains(&alias.aliasname))
    }

    /// A subquery in FROM becomes an inner projection.
    pub(super) fn block(&mut self, item: &mut Node) -> Outcome<()> {
        let Some(NodeEnum::RangeSubselect(subselect)) = item.node.as_mut() else { return Ok(()) };
        let Some(NodeEnum::SelectStmt(select)) = subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) else {
            return Ok(());
        };
        let (true, Some(alias)) = (select.values_lists.is_empty(), subselect.alias.clone()) else { return Ok(()) };
        // A row of it would show the columns that are added to it.
        if self.rows_used.contains(&alias.aliasname) && !hidden_groups(select, &self.query.functions)?.is_empty() {
            return Err(Obstacle::new(format!("the subquery {} is used as a whole row", alias.aliasname)));
        }
        name_columns(select, &alias);
        let name = self.add(select)?;
        *item = table(&name, &alias.aliasname);
        Ok(())
    }

    /// `SELECT f(g, agg(a)) … GROUP BY g` becomes `SELECT f(c.g1, c.a1) FROM (SELECT g AS g1, agg(a) AS a1 … GROUP BY g) c`.
    pub(super) fn over_aggregation(&mut self, select: SelectStmt) -> Outcome<SelectStmt> {
        let mut outer = SelectStmt {
            target_list: select.target_list.clone(),
            distinct_clause: select.distinct_clause.clone(),
            window_clause: select.window_clause.clone(),
            sort_clause: select.sort_clause.clone(),
            limit_count: select.limit_count.clone(),
            limit_offset: select.limit_offset.clone(),
            limit_option: select.limit_option,
            ..over("", "", Vec::new())
        };
        let mut columns = Columns { groups: Vec::new(), calls: Vec::new(), functions: &self.query.functions };
        let grouped = normalise::grouped_by(&select.group_clause)?;
        for group in &grouped {
            if matches!(&group.node, Some(NodeEnum::AConst(_))) {
                return Err(Obstacle::new("it groups by a constant"));
            }
            columns.groups.push(print_expression(group)?);
        }
        for clause in clauses(&mut outer) {
            *clause = columns.over(std::mem::take(clause))?;
        }
        let groups = grouped.into_iter().enumerate().map(|(n, group)| syntax::target(&group_column(n), group));
        let calls = columns.calls.iter().enumerate();
        let calls: Vec<Node> = calls
            .map(|(n, text)| Ok(syntax::target(&argument_column(n), syntax::parse_expression(text)?)))
            .collect::<Outcome<_>>()?;
        let inner = SelectStmt {
            target_list: groups.chain(calls).collect(),
            distinct_clause: Vec::new(),
            window_clause: Vec::new(),
            sort_clause: Vec::new(),
            limit_count: None,
            limit_offset: None,
            limit_option: pg_query::protobuf::LimitOption::Default as i32,
            ..select
        };
        let name = self.add(&inner)?;
        outer.from_clause = vec![table(&name, CONTRIBUTION_ALIAS)];
        Ok(outer)
    }
}

/// Replaces grouping expressions and aggregates by columns.
struct Columns<'a> {
    groups: Vec<String>,
    calls: Vec<String>,
    functions: &'a [Function],
}

impl Columns<'_> {
    fn over(&mut self, mut node: Node) -> Outcome<Node> {
        if node.node.is_none() {
            return Ok(node);
        }
        let is_expression = !matches!(
            &node.node,
            Some(
                NodeEnum::ResTarget(_)
                    | NodeEnum::SortBy(_)
                    | NodeEnum::WindowDef(_)
                    | NodeEnum::CaseWhen(_)
                    | NodeEnum::AIndices(_)
                    | NodeEnum::NamedArgExpr(_)
                    | NodeEnum::List(_)
            )
        );
        if is_expression {
            let printed = print_expression(&node)?;
            if let Some(group) = self.groups.iter().position(|text| *text == printed) {
                return Ok(column_reference(CONTRIBUTION_ALIAS, &group_column(group)));
            }
            if syntax::is_aggregate_call(&node, self.functions) || matches!(&node.node, Some(NodeEnum::GroupingFunc(_))) {
                let call = self.calls.iter().position(|text| *text == printed).unwrap_or_else(|| {
                    self.calls.push(printed);
                    self.calls.len() - 1
                });
                return Ok(column_reference(CONTRIBUTION_ALIAS, &argument_column(call)));
            }
            if matches!(&node.node, Some(NodeEnum::ColumnRef(_) | NodeEnum::SubLink(_))) {
                return Err(Obstacle::new("it has something beside groups and aggregates"));
            }
        }
        for child in children(&mut node)? {
            *child = self.over(std::mem::take(child))?;
        }
        Ok(node)
    }
}

/// What a SELECT makes groups or partitions by, of which its rows are found.
pub(super) fn groups(select: &SelectStmt, functions: &[Function]) -> Outcome<Vec<Node>> {
    if syntax::is_set_operation(select) {
        return Ok(Vec::new());
    }
    let on: Vec<Node> = select.distinct_clause.iter().filter(|node| node.node.is_some()).cloned().collect();
    let plain = |groups: &[Node]| !groups.iter().any(|group| matches!(&group.node, Some(NodeEnum::GroupingSet(_))));
    match (syntax::is_aggregate(select, functions)?, syntax::has_window(select)?) {
        (true, false) if plain(&select.group_clause) => Ok(select.group_clause.clone()),
        (false, true) => syntax::common_partition(select),
        (false, false) => Ok(on),
        (true, _) => Ok(Vec::new()),
    }
}

/// Those of them that are not among the columns.
pub(super) fn hidden_groups(select: &SelectStmt, functions: &[Function]) -> Outcome<Vec<Node>> {
    let outputs: Vec<String> =
        select.target_list.iter().filter_map(syntax::target_expression).map(print_expression).collect::<Result<_, _>>()?;
    let mut hidden = Vec::new();
    for group in groups(select, functions)? {
        if !outputs.contains(&print_expression(&group)?) {
            hidden.push(group);
        }
    }
    Ok(hidden)
}

/// Adds them as columns of a hidden table: the rows are the same.
pub(super) fn expose_groups(select: &mut SelectStmt, functions: &[Function]) {
    let plain_distinct = !select.distinct_clause.is_empty() && select.distinct_clause.iter().all(|node| node.node.is_none());
    if plain_distinct {
        return;
    }
    // One window over all rows makes all of it one group.
    let hidden = hidden_groups(select, functions).unwrap_or_default();
    let targets = hidden.into_iter().enumerate();
    select.target_list.extend(targets.map(|(n, group)| syntax::target(&format!("lockstep_g{}", n + 1), group)));
}

/// Gives a subquery's columns the names that its alias gives them.
pub(super) fn name_columns(select: &mut SelectStmt, alias: &Alias) {
    let mut first = select;
    while syntax::is_set_operation(first) {
        match first.larg.as_deref_mut() {
            Some(left) => first = left,
            None => return,
        }
    }
    for (target, name) in first.target_list.iter_mut().zip(&alias.colnames) {
        if let Some(NodeEnum::ResTarget(target)) = target.node.as_mut() {
            string_of(name).unwrap_or_default().clone_into(&mut target.name);
        }
    }
}

fn table(projection: &str, alias: &str) -> Node {
    wrap(NodeEnum::RangeVar(RangeVar {
        relname: stand_in(projection),
        inh: true,
        relpersistence: "p".to_owned(),
        alias: Some(Alias { aliasname: alias.to_owned(), colnames: Vec::new() }),
        ..RangeVar::default()
    }))
}

pub(super) fn over(projection: &str, alias: &str, target_list: Vec<Node>) -> SelectStmt {
    SelectStmt {
        target_list,
        from_clause: vec![table(projection, alias)],
        limit_option: pg_query::protobuf::LimitOption::Default as i32,
        op: pg_query::protobuf::SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    }
}
