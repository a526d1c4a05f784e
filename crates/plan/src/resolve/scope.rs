//! What resolving works with, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeFunction, SelectStmt};

use crate::model::agreement::Nulls;
use crate::model::facts::{Function, Relation};
use crate::model::obstacle::Outcome;
use crate::syntax::{Tally, any, children, string_of};

/// A query whose names are resolved.
pub(crate) struct Resolved {
    pub(crate) select: SelectStmt,
    pub(crate) occurrences: Vec<Occurrence>,
    pub(crate) derived: Vec<Derived>,
    pub(crate) equalities: Vec<Equality>,
    pub(crate) ranges: Vec<Range>,
    pub(crate) clocks: Vec<ClockComparison>,
    pub(super) names: BTreeMap<String, Name>,
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

impl Occurrence {
    pub(crate) fn new(alias: String, source: Source, place: Place, nullable: bool, location: i32) -> Self {
        Self { alias, source, nullable, place, inert: false, location, filters: Vec::new() }
    }
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
    pub(super) columns: Vec<(String, Option<Node>)>,
    /// How many rows it has for one combination of other rows; `None` for a transparent one, whose tables speak for themselves.
    pub(crate) rows: Option<Rows>,
    pub(crate) place: Place,
    /// Whether `alias.*` is used as a value, so that no column can be added.
    pub(crate) used_as_row: bool,
}

pub(super) struct Resolver<'a> {
    pub(super) relations: &'a [Relation],
    pub(super) functions: &'a [Function],
    pub(super) occurrences: Vec<Occurrence>,
    pub(super) derived: Vec<Derived>,
    pub(super) equalities: Vec<Equality>,
    pub(super) ranges: Vec<Range>,
    pub(super) clocks: Vec<ClockComparison>,
    /// Whether the expression at hand is the bound of a comparison, where the time is allowed.
    pub(super) inside_bound: bool,
    pub(super) names: BTreeMap<String, Name>,
    /// The FROM items visible at each level of nesting, innermost last: the alias as written, and what it stands for.
    pub(super) scopes: Vec<Vec<(String, Name)>>,
    /// The occurrences that may be NULL where an expression is evaluated now, for each level of nesting.
    pub(super) extended: Vec<BTreeSet<usize>>,
    pub(super) met: Tally,
    /// References that were not in the query: USING written out.
    pub(super) added_references: usize,
}

/// The occurrences of a FROM item.
#[derive(Default)]
pub(super) struct Side {
    pub(super) all: BTreeSet<usize>,
    /// Those that an outer join inside the item can replace by NULLs.
    pub(super) nullable: BTreeSet<usize>,
}

impl Side {
    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.all.extend(&other.all);
        self.nullable.extend(&other.nullable);
        self
    }
}

/// Whether a NULL answer of a condition counts as "no" all the way up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// Under ANDs and ORs of a WHERE: NULL and false are the same.
    Filter,
    /// Anywhere else: NULL and false differ.
    Value,
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
        see_through(node, &self.names, &self.derived)
    }
}

impl Resolver<'_> {
    /// Whether an outer join may have replaced an occurrence's row by NULLs where an expression is evaluated now.
    pub(super) fn is_nullable_now(&self, occurrence: usize) -> bool {
        self.extended.iter().any(|level| level.contains(&occurrence))
    }
}

/// `side = value`, or `side IS NOT DISTINCT FROM value`, in a place where rows of the occurrence that do not satisfy it do not matter.
#[derive(Debug, Clone)]
pub(crate) struct Equality {
    pub(crate) occurrence: usize,
    /// An expression over the occurrence's columns alone.
    pub(crate) side: Node,
    /// `side`, printed.
    pub(crate) side_sql: String,
    /// The column that `side` is, where it is one, a cast to text apart.
    pub(crate) column: Option<String>,
    /// The type that the column is cast to in the comparison (`(x.code)::text = …`), if any.
    pub(crate) cast: Option<String>,
    /// The other side, printed.
    pub(crate) value: String,
    /// The plain column that the other side is, where it is one.
    pub(crate) value_column: Option<(usize, String)>,
    /// The occurrences that the other side refers to.
    pub(crate) depends_on: BTreeSet<usize>,
    /// Whether it stands outside the opaque subquery that the occurrence is in, and says something about a column of that.
    pub(crate) from_outside: bool,
    /// Whether it comes from `value IN (SELECT side …)`.
    pub(crate) membership: bool,
    /// What NULLs do.
    pub(crate) nulls: Nulls,
}

impl Equality {
    /// The condition, in a form for which PostgreSQL can use an index of either side.
    pub(crate) fn condition(&self) -> String {
        let Self { side_sql, value, .. } = self;
        if self.nulls.equal {
            return format!("({side_sql} = ({value}) OR (({side_sql}) IS NULL AND ({value}) IS NULL))");
        }
        format!("{side_sql} = ({value})")
    }

    /// The condition, for the reader of a plan.
    pub(crate) fn tie(&self) -> String {
        let operator = if self.nulls.equal { "IS NOT DISTINCT FROM" } else { "=" };
        format!("{} {operator} {}", self.side_sql, self.value)
    }
}

/// A condition between an occurrence's columns and others'.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) occurrence: usize,
    pub(crate) condition: Node,
    /// The condition, printed.
    pub(crate) sql: String,
    /// The occurrence's columns in it.
    pub(crate) columns: Vec<String>,
    /// The other occurrences in it.
    pub(crate) depends_on: BTreeSet<usize>,
    /// The columns that stand alone on a side of an operator by which an index finds them.
    pub(crate) searched: Vec<Searched>,
    /// Whether it is an OR, so that one index is not enough.
    pub(crate) is_or: bool,
}

/// A column that an index can find rows by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Searched {
    pub(crate) occurrence: usize,
    pub(crate) column: String,
    pub(crate) by: SearchedBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SearchedBy {
    /// Its order.
    Order,
    /// What it contains, or overlaps.
    Content,
}

/// A comparison of a row's value with a bound that moves with the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClockComparison {
    pub(crate) occurrence: usize,
    /// The value: an expression over the occurrence's columns.
    pub(crate) side: String,
    /// The column that it is, if it is one.
    pub(crate) column: Option<String>,
    /// The bound, printed.
    pub(crate) bound: String,
    /// The bound at the time `$1::text::timestamptz`.
    pub(crate) bound_before: String,
}

/// How many rows an opaque subquery has for one combination of the rows around it.
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    /// No or one.
    AtMostOne,
    /// One for each combination of these expressions.
    PerGroup(Vec<Node>),
    /// Any number.
    Many,
}

/// The expression with the columns of subqueries replaced by what they stand for; `None` if one cannot be.
pub(super) fn see_through(node: &Node, names: &BTreeMap<String, Name>, derived: &[Derived]) -> Option<Node> {
    if let Some(NodeEnum::ColumnRef(reference)) = &node.node {
        let [alias, column] = reference.fields.as_slice() else { return None };
        return match names.get(string_of(alias)?)? {
            Name::Occurrence(_) => Some(node.clone()),
            Name::Derived(index) => {
                let column = string_of(column)?;
                let (_, seen) = derived[*index].columns.iter().find(|(name, _)| name == column)?;
                seen.clone()
            }
        };
    }
    let mut copy = node.clone();
    for child in children(&mut copy).ok()? {
        *child = see_through(child, names, derived)?;
    }
    Some(copy)
}

pub(super) fn contains_subquery(node: &Node) -> Outcome<bool> {
    Ok(any(node, &|node| matches!(&node.node, Some(NodeEnum::SubLink(_))))?)
}
