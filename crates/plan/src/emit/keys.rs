//! Statements that read keys.

use super::parts::{Places, texts};
use crate::model::facts::Relation;
use crate::model::plan::{Branch, Plan, Root};
use crate::model::quote;
use crate::model::row_key::locator;

/// Every root key, as text columns.
pub fn root_keys(root: &Root) -> String {
    let texts: Vec<String> = root.values("r").iter().map(|value| format!("{value}::text")).collect();
    format!("SELECT {} FROM {} AS r", texts.join(", "), quote::qualified(&root.schema, &root.name))
}

/// On the source: the identities, as text, of rows of a table without a key, which are bound to `$1` as literals of its row type. Types
/// and collations are those that the table has at the snapshot, like those of the expression over it.
pub fn hashes(relation: &Relation) -> String {
    let table = quote::qualified(&relation.schema, &relation.name);
    // OFFSET 0, lest a literal is read again for each of its columns.
    let rows = format!("SELECT d.d1::{table} AS r FROM unnest($1::text[]) AS d(d1) OFFSET 0");
    format!("SELECT DISTINCT {}::text\nFROM ({rows}) AS dirty", locator("(dirty.r).", &relation.located_by))
}

/// The root keys that a branch's rows or contributions are kept of, as text columns.
pub fn kept_keys(plan: &Plan, branch: &Branch, places: &Places) -> String {
    let (table, columns) = match &branch.contributions {
        Some(state) => (quote::qualified(&places.state_schema, &state.name), state.key.as_slice()),
        None if plan.owner.is_empty() => (quote::qualified(&places.schema, &plan.projection), plan.key.columns()),
        None => (quote::qualified(&places.schema, &plan.projection), plan.owner.as_slice()),
    };
    format!("SELECT DISTINCT {} FROM {table} AS t", texts("t.", columns))
}

/// A query on the source for one key that the defining query returns more than once: the key columns as text and the count.
pub fn defining_query_duplicates(query: &str, key: &[String]) -> String {
    let texts: Vec<String> = key.iter().map(|column| format!("q.{}::text", quote::identifier(column))).collect();
    let keys = quote::prefixed_list("q.", key);
    format!("SELECT count(*)::bigint, {} FROM (\n{query}\n) AS q GROUP BY {keys} HAVING count(*) > 1 LIMIT 1", texts.join(", "))
}
