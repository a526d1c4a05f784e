//! Blocks: what in a query cannot be seen through becomes a projection of its own, hidden, and the rest is planned over its table, as over
//! any other.
//!
//! The rule: `Q = O(B…, T…)` for blocks B and tables T. A block's table is a relation whose identity is its row key, or the hash of the whole
//! row; the keys that a batch wrote to it are its dirty keys. So Q is incremental where O is, over that mixture, and every B is. A block of
//! one value ties nothing: when the value changes, all of O is dirty, and when it does not, nothing is.

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, Node, SelectStmt, SubLinkType};

use super::decomposition::{Decomposition, Parts, hidden_groups, name_columns, over, take_apart};
use super::limits::{self, Limit};
use crate::model::contributions::{CONTRIBUTION_ALIAS, argument_column};
use crate::model::facts::{Function, Query};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::normalise;
use crate::syntax::{
    self, children, clauses, column_reference, for_each_item, for_each_select_inside, for_each_table, is_self_contained,
    print_select_pretty, with_large_stack, wrap,
};

/// What is made a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Windows alone: whatever else is in FROM is seen through, or restricted to what it is tied to.
    Windows,
    /// All that cannot be seen through, and single values.
    Opaque,
    /// The members of IN as well, where they are of several tables or of groups: a member that is NULL because nothing was joined is a row
    /// of the block, that comes and goes.
    Members,
    /// Tables beside them, too: in two databases blocks cannot be joined with tables.
    Everything,
    /// All of that.
    EverythingAndMembers,
}

impl Extent {
    /// Whether subqueries of IN that are more than one table are blocks as well.
    fn has_members(self) -> bool {
        matches!(self, Self::Members | Self::EverythingAndMembers)
    }

    fn has_tables(self) -> bool {
        matches!(self, Self::Everything | Self::EverythingAndMembers)
    }
}

/// Ways to take a query apart so that the outer query may be incremental, the one with the least state first. With `two_databases` the
/// outer query reads blocks alone.
pub fn compositions(query: &Query, two_databases: bool) -> Vec<Decomposition> {
    let extents: &[Extent] = if two_databases {
        &[Extent::Everything, Extent::EverythingAndMembers]
    } else {
        &[Extent::Windows, Extent::Opaque, Extent::Members]
    };
    let mut found: Vec<Decomposition> = Vec::new();
    for extent in extents {
        let composed = with_large_stack(|| compose(query, *extent).ok()).ok().flatten();
        found.extend(composed.filter(|new| !found.contains(new)));
    }
    // Blocks for all that is in FROM, at whatever cost.
    let apart = with_large_stack(|| take_apart(query).ok()).ok().flatten();
    found.extend(apart.filter(|new| !found.contains(new)));
    found
}

fn compose(query: &Query, extent: Extent) -> Outcome<Decomposition> {
    let mut select = syntax::parse_select(&query.sql)?;
    normalise::inline(&mut select, &query.views)?;
    let mut blocks = Blocks { parts: Parts::new(query, &select)?, extent, repeated: repeated(&mut select)? };
    // What is done to the rows of all groupings together is done over a block of them.
    let over_groupings = syntax::has_window(&select)? || !select.distinct_clause.is_empty() || select.limit_count.is_some();
    if !over_groupings && let Some(arms) = normalise::groupings_written_out(&select, &query.columns, &query.functions)? {
        select = arms;
    }
    if syntax::is_set_operation(&select) {
        blocks.arms(&mut select)?;
    } else {
        blocks.parts.name_outputs(&mut select);
        blocks.of_select(&mut select)?;
    }
    if extent.has_tables() {
        blocks.tables(&mut select)?;
    }
    if blocks.parts.inner.is_empty() {
        return Err(Obstacle::new("there is nothing to make a block of"));
    }
    Ok(Decomposition { inner: blocks.parts.inner, outer: print_select_pretty(&select)? })
}

struct Blocks<'a> {
    parts: Parts<'a>,
    extent: Extent,
    /// Subqueries in FROM that occur more than once, printed: they are one block.
    repeated: Vec<String>,
}

impl Blocks<'_> {
    fn functions(&self) -> &[Function] {
        &self.parts.query.functions
    }

    /// Arms that do more than filter and join become blocks.
    fn arms(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        if syntax::is_set_operation(select) {
            for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
                self.arms(side)?;
            }
            return Ok(());
        }
        self.parts.name_outputs(select);
        if is_opaque(select, self.functions())? || select.limit_count.is_some() {
            let name = self.parts.add(select)?;
            *select = over(&name, "part", self.parts.outputs("part"));
            return Ok(());
        }
        self.subqueries(select)
    }

    fn of_select(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        // A limit on ranks stays with its windows.
        if let Some(windows) = limits::inner_mut(select, self.functions())? {
            return self.of_select(windows);
        }
        let windows = syntax::has_window(select)?;
        let aggregates = syntax::is_aggregate(select, self.functions())?;
        let distinct = !select.distinct_clause.is_empty();
        if (windows || distinct) && select.limit_count.is_some() && !select.sort_clause.is_empty() {
            return self.first_rows(select);
        }
        let hides_groups = !hidden_groups(select, self.functions()).unwrap_or_default().is_empty();
        if aggregates && (windows || hides_groups || distinct) {
            let whole = std::mem::take(select);
            *select = self.parts.over_aggregation(whole)?;
            return Ok(());
        }
        if windows && distinct {
            return self.distinct_over_windows(select);
        }
        let plain = !aggregates && !windows && !distinct;
        if plain && select.limit_count.is_some() && !select.sort_clause.is_empty() {
            return self.first_rows(select);
        }
        if hides_groups {
            let name = self.parts.add(select)?;
            *select = over(&name, "part", self.parts.outputs("part"));
            return Ok(());
        }
        self.subqueries(select)
    }

    /// `SELECT DISTINCT w … ` becomes `SELECT DISTINCT part.w FROM (SELECT w …) part`.
    fn distinct_over_windows(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        if select.distinct_clause.iter().any(|node| node.node.is_some()) {
            return Err(Obstacle::new("it has DISTINCT ON over window functions")
                .instead("compute the windows in a subquery in FROM, and write DISTINCT ON outside of it"));
        }
        if select.limit_offset.is_some() {
            return Err(Obstacle::new("it has OFFSET over DISTINCT and window functions"));
        }
        let distinct = std::mem::take(&mut select.distinct_clause);
        select.sort_clause.clear();
        let name = self.parts.add(select)?;
        *select = over(&name, "part", self.parts.outputs("part"));
        select.distinct_clause = distinct;
        Ok(())
    }

    /// `SELECT a … ORDER BY b LIMIT n` over several tables becomes `SELECT part.a FROM (SELECT a, b …) part ORDER BY part.b LIMIT n`. So
    /// does a single table that has no index for it, or of which a filter takes rows; so do windows and DISTINCT.
    fn first_rows(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        if select.limit_option == pg_query::protobuf::LimitOption::WithTies as i32 {
            return Err(Obstacle::new("it has WITH TIES"));
        }
        // PostgreSQL sorts rows before it makes several of each.
        if syntax::returns_set(select, self.functions())? {
            return Err(Obstacle::new("it has LIMIT beside a function that returns a set"));
        }
        let (count, offset) = (select.limit_count.take(), select.limit_offset.take());
        let mut sorts = std::mem::take(&mut select.sort_clause);
        if select.distinct_clause.iter().any(|on| on.node.is_some()) {
            // It also says which row is the first of its kind.
            select.sort_clause.clone_from(&sorts);
        }
        for (number, sort) in sorts.iter_mut().enumerate() {
            let Some(NodeEnum::SortBy(by)) = sort.node.as_mut() else {
                return Err(Obstacle::new("its ORDER BY is of an unknown kind"));
            };
            let Some(value) = by.node.as_deref_mut() else { continue };
            if matches!(&value.node, Some(NodeEnum::AConst(_))) {
                return Err(Obstacle::new("its ORDER BY names a column by number"));
            }
            let text = syntax::print_expression(value)?;
            let outputs = select.target_list.iter().map(|target| {
                let name = match &target.node {
                    Some(NodeEnum::ResTarget(target)) => target.name.clone(),
                    Some(_) | None => String::new(),
                };
                (name, syntax::target_expression(target).and_then(|value| syntax::print_expression(value).ok()))
            });
            let found = outputs.into_iter().find(|(_, printed)| printed.as_ref() == Some(&text)).map(|(name, _)| name);
            let name = found.unwrap_or_else(|| {
                let name = format!("lockstep_o{}", number + 1);
                select.target_list.push(syntax::target(&name, value.clone()));
                name
            });
            *value = column_reference("part", &name);
        }
        let name = self.parts.add(select)?;
        *select = over(&name, "part", self.parts.outputs("part"));
        (select.sort_clause, select.limit_count, select.limit_offset) = (sorts, count, offset);
        select.limit_option = pg_query::protobuf::LimitOption::Count as i32;
        Ok(())
    }

    /// Subqueries in FROM and in expressions, at this level and in what is seen through.
    fn subqueries(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        let alone = matches!(select.from_clause.as_slice(), [item] if matches!(&item.node, Some(NodeEnum::RangeSubselect(_))));
        let limits = limits::of(select);
        for_each_item(select, &mut |item| self.item(item, &limits, alone))?;
        if self.extent != Extent::Windows {
            clauses(select).into_iter().try_for_each(|clause| self.values(clause))?;
        }
        if self.extent.has_members() {
            clauses(select).into_iter().try_for_each(|clause| self.members(clause))?;
        }
        for_each_select_inside(select, &mut |inner| {
            if syntax::is_set_operation(inner) { Ok(()) } else { self.subqueries(inner) }
        })
    }

    fn item(&mut self, item: &mut Node, limits: &[Limit], alone: bool) -> Outcome<()> {
        let Some(NodeEnum::RangeSubselect(subselect)) = item.node.as_mut() else { return Ok(()) };
        let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) else {
            return Ok(());
        };
        if !inner.values_lists.is_empty() {
            return Ok(());
        }
        let wanted = match self.extent {
            Extent::Windows => inner.with_clause.is_some() || (!syntax::is_set_operation(inner) && syntax::has_window(inner)?),
            Extent::Opaque | Extent::Members | Extent::Everything | Extent::EverythingAndMembers => {
                is_opaque(inner, &self.parts.query.functions)?
            }
        };
        if wanted && !subselect.lateral {
            let only_reader = !self.repeated.contains(&print_select_pretty(inner)?) && !self.parts.is_used_as_row(subselect);
            if let Some(limited) = limits::limited(subselect, limits, alone, self.functions())?.filter(|_| only_reader) {
                subselect.subquery = Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(limited)))));
            }
            return self.parts.block(item);
        }
        if syntax::is_set_operation(inner) { Ok(()) } else { self.subqueries(inner) }
    }

    /// Single values that do not depend on the rows around them: `(SELECT avg(x) FROM t)`.
    fn values(&mut self, node: &mut Node) -> Outcome<()> {
        if let Some(NodeEnum::SubLink(link)) = node.node.as_mut()
            && link.sub_link_type() == SubLinkType::ExprSublink
            && let Some(NodeEnum::SelectStmt(inner)) = link.subselect.as_mut().and_then(|node| node.node.as_mut())
            && !syntax::is_set_operation(inner)
            && inner.group_clause.is_empty()
            && inner.limit_count.is_none()
            && inner.target_list.len() == 1
            && syntax::is_aggregate(inner, &self.parts.query.functions)?
            && is_self_contained(inner)?
        {
            let column = argument_column(0);
            if let Some(NodeEnum::ResTarget(target)) = inner.target_list.first_mut().and_then(|target| target.node.as_mut()) {
                target.name.clone_from(&column);
            }
            let name = self.parts.add(inner)?;
            let value = syntax::target("", column_reference(CONTRIBUTION_ALIAS, &column));
            **inner = over(&name, CONTRIBUTION_ALIAS, vec![value]);
            return Ok(());
        }
        children(node)?.into_iter().try_for_each(|child| self.values(child))
    }

    /// `x IN (SELECT c FROM t LEFT JOIN u …)`, where the subquery does not depend on the rows around it.
    fn members(&mut self, node: &mut Node) -> Outcome<()> {
        if let Some(NodeEnum::SubLink(link)) = node.node.as_mut()
            && matches!(link.sub_link_type(), SubLinkType::AnySublink | SubLinkType::AllSublink)
            && let Some(NodeEnum::SelectStmt(inner)) = link.subselect.as_mut().and_then(|node| node.node.as_mut())
            && inner.values_lists.is_empty()
            && !matches!(inner.from_clause.as_slice(), [Node { node: Some(NodeEnum::RangeVar(_)) }] if !is_opaque(inner, self.functions())?)
            && is_self_contained(inner)?
        {
            let mut first: &SelectStmt = inner;
            while let Some(left) = first.larg.as_deref() {
                first = left;
            }
            let names: Vec<String> = (0..first.target_list.len()).map(argument_column).collect();
            let colnames = names.iter().map(|name| syntax::string(name)).collect();
            name_columns(inner, &Alias { colnames, ..Alias::default() });
            let block = self.parts.add(inner)?;
            let values = names.iter().map(|name| syntax::target("", column_reference(CONTRIBUTION_ALIAS, name))).collect();
            **inner = over(&block, CONTRIBUTION_ALIAS, values);
        }
        children(node)?.into_iter().try_for_each(|child| self.members(child))
    }

    /// Tables that are left become blocks of their rows.
    fn tables(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        let relations = self.parts.query.relations.clone();
        let mut names = Vec::new();
        for_each_table(select, &mut |table| {
            if table.schemaname.is_empty() {
                return Ok(());
            }
            let found = relations.iter().find(|relation| relation.schema == table.schemaname && relation.name == table.relname);
            let relation = found.ok_or_else(|| format!("{}.{} is not known", table.schemaname, table.relname))?;
            names.push((table.schemaname.clone(), table.relname.clone(), relation.columns.clone()));
            Ok(())
        })?;
        for (schema, name, columns) in names {
            let mut rows = over("", "", Vec::new());
            rows.from_clause = vec![wrap(NodeEnum::RangeVar(pg_query::protobuf::RangeVar {
                schemaname: schema.clone(),
                relname: name.clone(),
                inh: true,
                relpersistence: "p".to_owned(),
                ..pg_query::protobuf::RangeVar::default()
            }))];
            rows.target_list = columns.iter().map(|column| syntax::target("", column_reference(&name, &column.name))).collect();
            let block = super::chains::stand_in(&self.parts.add(&rows)?);
            for_each_table(select, &mut |table| {
                if table.schemaname == schema && table.relname == name {
                    table.schemaname.clear();
                    table
                        .alias
                        .get_or_insert_with(|| pg_query::protobuf::Alias { aliasname: name.clone(), colnames: Vec::new() });
                    table.relname.clone_from(&block);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The subqueries in FROM that occur more than once, at any depth.
fn repeated(select: &mut SelectStmt) -> Outcome<Vec<String>> {
    fn within(select: &mut SelectStmt, all: &mut Vec<String>) -> Outcome<()> {
        for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
            within(side, all)?;
        }
        for_each_item(select, &mut |item| {
            let Some(NodeEnum::RangeSubselect(subselect)) = item.node.as_mut() else { return Ok(()) };
            let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) else {
                return Ok(());
            };
            all.push(print_select_pretty(inner)?);
            within(inner, all)
        })?;
        for_each_select_inside(select, &mut |inner| within(inner, all))
    }
    let mut all = Vec::new();
    within(select, &mut all)?;
    all.sort_unstable();
    let twice = all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone());
    Ok(twice.collect())
}

/// Whether a row of a SELECT is more than one combination of its tables' rows.
fn is_opaque(select: &SelectStmt, functions: &[Function]) -> Outcome<bool> {
    Ok(select.with_clause.is_some()
        || select.limit_count.is_some()
        || select.limit_offset.is_some()
        || syntax::is_set_operation(select)
        || syntax::is_aggregate(select, functions)?
        || syntax::has_window(select)?
        || !select.distinct_clause.is_empty())
}
