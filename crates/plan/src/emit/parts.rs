//! What statements are made of: where tables are, which rows, and the CTEs that they share.

use crate::model::plan::{Plan, Root};
use crate::model::quote;
use crate::model::trace::unnest;

/// Which rows a statement refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedKeys {
    /// Those bound to `$1::text[]`…, one array for each key column.
    Bound,
    /// All of them.
    Everything,
}

/// Where a statement's fresh rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// The query itself: source and target are one database.
    Query,
    /// A staging table (quoted name) that was filled from the source.
    Staged(String),
    /// There are none: what is kept for the keys goes.
    Nothing,
}

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The schema of the read models.
    pub schema: String,
    /// The schema of hidden state.
    pub state_schema: String,
}

pub(super) fn names(plan: &Plan) -> Vec<String> {
    plan.columns.iter().map(|column| column.name.clone()).collect()
}

/// `dirty AS (…)`: bound text arrays as typed key columns `k1`….
pub fn dirty_cte(root: &Root) -> String {
    let columns: Vec<String> =
        root.key.iter().enumerate().map(|(n, (_, type_name))| format!("d.d{0}::{type_name} AS k{0}", n + 1)).collect();
    format!("dirty AS MATERIALIZED (\n  SELECT DISTINCT {} FROM {}\n)", columns.join(", "), unnest(root.key.len()))
}

pub(super) fn fresh_cte(columns: &[String], source: &str) -> String {
    let renamed: Vec<String> = columns.iter().map(|column| quote::identifier(column)).collect();
    // As it is: indenting it would change string literals that span lines.
    format!("fresh ({}) AS MATERIALIZED (\n{source}\n)", renamed.join(", "))
}

pub(super) fn staged(table: &str, columns: &[String]) -> String {
    format!("SELECT {} FROM {table}", quote::list(columns))
}

/// No rows, with the types of a table's.
pub(super) fn nothing(table: &str, columns: &[String]) -> String {
    format!("{} WHERE false", staged(table, columns))
}

pub(super) fn texts(prefix: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{prefix}{}::text", quote::identifier(column))).collect::<Vec<_>>().join(", ")
}
