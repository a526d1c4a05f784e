//! What a query reads where, and which equalities tie it together.
//!
//! Every table in FROM, at any depth, is an *occurrence* (a self-join has two). Aliases are made unique over the whole query and every
//! reference is qualified, so that an alias is an occurrence's name and pieces of the query can be put into other queries. A subquery
//! in FROM is *transparent* if each of its rows comes from one combination of its tables' rows, so that one sees through its columns;
//! otherwise (aggregation, DISTINCT, LIMIT, windows, UNION) only its grouping columns can be seen through.

mod clock;
mod equality;
mod expression;
mod from;
mod null_safe;
mod opaque;
mod range;
mod scope;
mod time;

use std::collections::{BTreeMap, BTreeSet};

use pg_query::protobuf::{Node, SelectStmt};

use scope::{Context, Resolver, Side};

use crate::model::facts::{Function, Relation};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, Tally, clauses};

pub(crate) use scope::{ClockComparison, Equality, Place, Range, Resolved, Rows, Searched, SearchedBy, Source};
pub(crate) use time::{contains_clock, fix_time};

/// Resolves a SELECT without WITH and set operations at its top.
pub(crate) fn resolve(mut select: SelectStmt, relations: &[Relation], functions: &[Function]) -> Outcome<Resolved> {
    let contained = syntax::tally(&select)?;
    let mut resolver = Resolver {
        relations,
        functions,
        occurrences: Vec::new(),
        derived: Vec::new(),
        equalities: Vec::new(),
        ranges: Vec::new(),
        clocks: Vec::new(),
        inside_bound: false,
        names: BTreeMap::new(),
        scopes: Vec::new(),
        extended: Vec::new(),
        met: Tally::default(),
        added_references: 0,
    };
    resolver.select(&mut select, Place::Row, false)?;
    let expected = Tally { references: contained.references + resolver.added_references, ..contained };
    if resolver.met != expected {
        return Err(Obstacle::new("it has a construct with parts that the planner does not see"));
    }
    let Resolver { occurrences, derived, equalities, ranges, clocks, names, .. } = resolver;
    Ok(Resolved { select, occurrences, derived, equalities, ranges, clocks, names })
}

impl Resolver<'_> {
    /// Resolves one SELECT; the result is what its FROM clause holds. Equalities of its WHERE clause are collected.
    fn select(&mut self, select: &mut SelectStmt, place: Place, nullable: bool) -> Outcome<Side> {
        if let Some(with) = &select.with_clause {
            return Err(Obstacle::at("it has a recursive WITH", with.location));
        }
        if !select.locking_clause.is_empty() {
            return Err(Obstacle::new("it locks rows"));
        }
        self.scopes.push(Vec::new());
        self.extended.push(BTreeSet::new());
        let mut from = Side::default();
        for item in &mut select.from_clause {
            let side = self.item(item, place, nullable)?;
            from = from.plus(&side);
        }
        if let Some(level) = self.extended.last_mut() {
            level.clone_from(&from.nullable);
        }
        if let Some(condition) = &mut select.where_clause {
            self.expression(condition, Context::Filter)?;
            self.collect(condition, &from.all)?;
            self.narrow(condition)?;
        }
        let condition = select.where_clause.take();
        for clause in clauses(select) {
            self.expression(clause, Context::Value)?;
        }
        select.where_clause = condition;
        self.scopes.pop();
        self.extended.pop();
        Ok(from)
    }

    /// Resolves a SELECT or a combination of them, in an expression or in FROM.
    fn subselect(&mut self, select: &mut SelectStmt, place: Place, nullable: bool) -> Outcome<Side> {
        if !syntax::is_set_operation(select) {
            return self.select(select, place, nullable);
        }
        let mut all = Side::default();
        for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
            let found = self.subselect(side, place, nullable)?;
            all = all.plus(&found);
        }
        // ORDER BY and LIMIT of the whole refer to output columns, which need no resolving; anything else is met too seldom.
        let expressions = clauses(select).into_iter().filter(|node| node.node.is_some());
        for node in expressions {
            self.count_only(node)?;
        }
        Ok(all)
    }

    /// Counts the parts of an expression that refers to output columns only.
    fn count_only(&mut self, node: &mut Node) -> Outcome<()> {
        use pg_query::NodeEnum;
        match &node.node {
            Some(NodeEnum::ColumnRef(_)) => self.met.references += 1,
            Some(NodeEnum::FuncCall(_)) => self.met.calls += 1,
            Some(NodeEnum::SubLink(_)) => return Err(Obstacle::new("it orders or limits a UNION by a subquery")),
            Some(_) | None => {}
        }
        syntax::children(node)?.into_iter().try_for_each(|child| self.count_only(child))
    }
}
