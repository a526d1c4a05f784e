//! How changes of a relation lead to the root keys that they concern.

use serde::Serialize;

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
    /// What the values are compared with on the path.
    pub(crate) values: Vec<String>,
    /// Roots whose value is NULL are concerned by every change.
    pub(crate) null_value: bool,
    /// A value that is NULL concerns every root.
    pub(crate) null_side: bool,
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

/// The roots where the values are among those that `dirty` returns. Where NOT IN is at work, also those with a NULL, and all if a dirty
/// value is NULL.
pub(crate) fn restricted(select: &str, values: &[String], dirty: &str, null_value: bool, null_side: Option<&str>) -> String {
    let mut sql = format!("{select}\nWHERE ({}) IN ({dirty})", values.join(", "));
    if null_value {
        sql.push_str(&format!("\nUNION\n{select}\nWHERE ({}) IS NULL", values.join(", ")));
    }
    if let Some(any_null) = null_side {
        sql.push_str(&format!("\nUNION\n{select}\nWHERE {any_null}"));
    }
    sql
}
