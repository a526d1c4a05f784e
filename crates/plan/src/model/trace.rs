//! How changes of a relation lead to the root keys that they concern.

use serde::Serialize;

use super::agreement::Compared;
use super::index::WantedIndex;
use super::state::StateTable;

/// One place where the query reads a relation.
#[derive(Debug, Clone)]
pub struct RelationRole {
    /// Index into [`Plan::relations`].
    pub relation: usize,
    /// The alias there.
    pub alias: String,
    /// The role.
    pub role: Role,
    /// Why; one clause for the reader.
    pub reason: String,
    /// How a change of it leads to root keys.
    pub trace: Trace,
    /// The indexes that maintenance needs and the table lacks.
    pub missing_indexes: Vec<WantedIndex>,
    /// In a hierarchy: every root of this branch (counted from 0), once it is found, is traced further as if it were a dirty key of the
    /// relation. The relation's dirty keys are among those roots.
    pub follows: Option<usize>,
}

/// How dirty keys of a relation lead to root keys.
#[derive(Debug, Clone)]
pub enum Trace {
    /// They are the root keys.
    Root,
    /// By a query: dirty keys in (`$1::text[]`, one array an identity column), root keys out, as text.
    Keys(String),
    /// By the old and the new values of what the rows are joined by.
    Link(Box<LinkTrace>),
    /// They concern every root.
    Whole,
}

/// A trace over kept values. The statements are made by [`crate::sql::Link`].
#[derive(Debug, Clone)]
pub struct LinkTrace {
    /// The table of the values last seen: identity columns `k1`…, values `l1`….
    pub state: StateTable,
    pub(crate) alias: String,
    pub(crate) table: String,
    /// How many of the expressions are the identity.
    pub(crate) key_columns: usize,
    /// Whether the identity is a hash, which several rows may have in common: equal ones, which need not look the same.
    pub(crate) located: bool,
    pub(crate) key_types: Vec<String>,
    /// The identity columns and the values, as expressions over the relation.
    pub(crate) expressions: Vec<String>,
    /// Conditions that rows which matter satisfy.
    pub(crate) filter: Vec<String>,
    /// `SELECT` and `FROM` of the trace: the root keys over the path.
    pub(crate) select: String,
    /// Which rows of the path are concerned by a value.
    pub(crate) concerned: Concerned,
}

/// Which rows of a path are concerned by the values of a dirty row.
#[derive(Debug, Clone)]
pub(crate) enum Concerned {
    /// Those with values that agree, one by one.
    Agreeing(Vec<Compared>),
    /// Those that satisfy the conditions, in which the dirty values are `d.l1`….
    Satisfying(Vec<String>),
}

/// `select` over the path where the conditions hold with some dirty row, whose values are `dirty` over the FROM item `from`.
pub(crate) fn satisfying(select: &str, conditions: &[String], dirty: &[String], from: &str) -> String {
    let named: Vec<String> = (1..).zip(dirty).map(|(n, value)| format!("{value} AS l{n}")).collect();
    format!("{select}\nJOIN (SELECT {} FROM {from}) AS d ON {}", named.join(", "), conditions.join(" AND "))
}

/// What a change of a relation's row leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its key is the root key.
    Root,
    /// A query leads from its key to root keys.
    Lookup,
    /// The old and new values of its join columns lead to root keys.
    Link,
    /// Everything is recomputed.
    Whole,
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Root => "root",
            Self::Lookup => "lookup",
            Self::Link => "link",
            Self::Whole => "whole",
        })
    }
}

/// `unnest($1::text[], $2::text[]) AS d(d1, d2)` for the given number of key columns, parameters counted from 1.
pub(crate) fn unnest(columns: usize) -> String {
    unnest_from(1, columns)
}

/// The same with parameters counted from `first`.
pub(crate) fn unnest_from(first: usize, columns: usize) -> String {
    let parameters: Vec<String> = (first..first + columns).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<String> = (1..=columns).map(|n| format!("d{n}")).collect();
    format!("unnest({}) AS d({})", parameters.join(", "), names.join(", "))
}
