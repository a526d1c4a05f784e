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
mod opaque;

use std::collections::{BTreeMap, BTreeSet};

use pg_query::protobuf::{Node, RangeFunction, SelectStmt};

use crate::facts::{Function, Relation};
use crate::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, Tally, clauses};

pub(crate) use clock::{ClockComparison, fix_time};
pub(crate) use equality::{Equality, Nulls};
pub(crate) use expression::contains_clock;
pub(crate) use opaque::Rows;

/// A query whose names are resolved.
pub(crate) struct Resolved {
    pub(crate) select: SelectStmt,
    pub(crate) occurrences: Vec<Occurrence>,
    pub(crate) derived: Vec<Derived>,
    pub(crate) equalities: Vec<Equality>,
    pub(crate) clocks: Vec<ClockComparison>,
    names: BTreeMap<String, Name>,
}

/// What an alias stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Occurrence(usize),
    Derived(usize),
}

/// A table or a function in FROM.
#[derive(Debug, Clone)]
pub(crate) struct Occurrence {
    /// Its name, unique in the query.
    pub(crate) alias: String,
    pub(crate) source: Source,
    /// Whether an outer join can replace its row by NULLs.
    pub(crate) nullable: bool,
    pub(crate) place: Place,
    /// Whether it can contribute nothing, standing under `ON false`.
    pub(crate) inert: bool,
    /// Where it stands in the query's text, as the parser counts.
    pub(crate) location: i32,
    /// Conditions on its columns alone that every row which matters satisfies.
    pub(crate) filters: Vec<Node>,
}

/// What an occurrence reads.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Index into the facts' relations.
    Table(usize),
    /// A function, and the occurrences that its arguments depend on.
    Function(Box<RangeFunction>, BTreeSet<usize>),
}

/// Where an occurrence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In FROM, or in transparent subqueries there: each row of the result has (at most) one row of it.
    Row,
    /// In an opaque subquery in FROM; the index is the outermost such subquery's.
    Inside(usize),
    /// In a subquery of an expression.
    Subquery,
}

/// A subquery in FROM.
#[derive(Debug, Clone)]
pub(crate) struct Derived {
    /// Its name, unique in the query.
    pub(crate) alias: String,
    /// Its columns; an expression where one can see through.
    columns: Vec<(String, Option<Node>)>,
    /// How many rows it has for one combination of other rows; `None` for a transparent one, whose tables speak for themselves.
    pub(crate) rows: Option<Rows>,
    pub(crate) place: Place,
    /// Whether `alias.*` is used as a value, so that no column can be added.
    pub(crate) used_as_row: bool,
}

/// Resolves a SELECT without WITH and set operations at its top.
pub(crate) fn resolve(mut select: SelectStmt, relations: &[Relation], functions: &[Function]) -> Outcome<Resolved> {
    let contained = syntax::tally(&select)?;
    let mut resolver = Resolver {
        relations,
        functions,
        occurrences: Vec::new(),
        derived: Vec::new(),
        equalities: Vec::new(),
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
    let Resolver { occurrences, derived, equalities, clocks, names, .. } = resolver;
    Ok(Resolved { select, occurrences, derived, equalities, clocks, names })
}

struct Resolver<'a> {
    relations: &'a [Relation],
    functions: &'a [Function],
    occurrences: Vec<Occurrence>,
    derived: Vec<Derived>,
    equalities: Vec<Equality>,
    clocks: Vec<ClockComparison>,
    /// Whether the expression at hand is the bound of a comparison, where the time is allowed.
    inside_bound: bool,
    names: BTreeMap<String, Name>,
    /// The FROM items visible at each level of nesting, innermost last: the alias as written, and what it stands for.
    scopes: Vec<Vec<(String, Name)>>,
    /// The occurrences that may be NULL where an expression is evaluated now, for each level of nesting.
    extended: Vec<BTreeSet<usize>>,
    met: Tally,
    /// References that were not in the query: USING written out.
    added_references: usize,
}

/// The occurrences of a FROM item.
#[derive(Default)]
struct Side {
    all: BTreeSet<usize>,
    /// Those that an outer join inside the item can replace by NULLs.
    nullable: BTreeSet<usize>,
}

impl Side {
    fn plus(mut self, other: &Self) -> Self {
        self.all.extend(&other.all);
        self.nullable.extend(&other.nullable);
        self
    }
}

/// Whether a NULL answer of a condition counts as "no" all the way up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    /// Under ANDs and ORs of a WHERE: NULL and false are the same.
    Filter,
    /// Anywhere else: NULL and false differ.
    Value,
}

impl Resolver<'_> {
    /// Resolves one SELECT; the result is what its FROM clause holds. Equalities of its WHERE clause are collected.
    fn select(&mut self, select: &mut SelectStmt, place: Place, nullable: bool) -> Outcome<Side> {
        if select.with_clause.is_some() {
            return Err(Obstacle::new("it has a WITH clause"));
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

    fn is_nullable_now(&self, occurrence: usize) -> bool {
        self.extended.iter().any(|level| level.contains(&occurrence))
    }
}

impl Resolved {
    /// The facts of an occurrence's table.
    pub(crate) fn table(&self, occurrence: usize) -> Option<usize> {
        match &self.occurrences[occurrence].source {
            Source::Table(relation) => Some(*relation),
            Source::Function(..) => None,
        }
    }

    /// The expression over tables' columns that an output expression stands for, or `None` if one cannot see through.
    pub(crate) fn seen_through(&self, node: &Node) -> Option<Node> {
        expression::see_through(node, &self.names, &self.derived)
    }
}
