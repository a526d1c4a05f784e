//! The statements of a link: reading the values that rows are joined by, keeping them, and tracing from them.
//!
//! ```text
//!   dirty keys ──fetch──► values now ──merge──► values before and now ──trace──► root keys
//!               (source)              (target)                         (source)
//! ```
//!
//! The values travel as text, like keys.

use super::merge::{differs, same_key};
use super::parts::Places;
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::model::trace::{LinkTrace, restricted, unnest, unnest_from};

/// The statements, made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// On the source: of the dirty keys (`$1::text[]`…) those rows that matter: identity and values, as text.
    pub fetch: String,
    /// On the source: the rows after the identity bound to `$1`…, in order.
    pub next_page: String,
    /// The same from the start.
    pub first_page: String,
    /// On the target: dirty keys, then fetched rows, bound; returns the values before and now, as text.
    pub merge: String,
    /// On the target: forget everything.
    pub clear: String,
    /// On the source: root keys for bound values, as text.
    pub trace: String,
    /// Number of identity columns.
    pub key_columns: usize,
    /// Number of values.
    pub value_columns: usize,
}

impl Link {
    /// The statements of a link. Its state table's types must be known.
    pub fn new(link: &LinkTrace, places: &Places, page_rows: usize) -> Self {
        Self {
            fetch: fetch(link),
            next_page: page(link, false, page_rows),
            first_page: page(link, true, page_rows),
            merge: merge(link, places),
            clear: format!("DELETE FROM {}", quote::qualified(&places.state_schema, &link.state.name)),
            trace: trace(link),
            key_columns: link.key_columns,
            value_columns: link.values.len(),
        }
    }
}

/// The identity, over the relation's alias.
fn identity(link: &LinkTrace) -> &[String] {
    &link.expressions[..link.key_columns]
}

fn select(link: &LinkTrace) -> String {
    let texts: Vec<String> = link.expressions.iter().map(|expression| format!("({expression})::text")).collect();
    format!("SELECT {}\nFROM {} AS {}", texts.join(", "), link.table, link.alias)
}

fn conditions(link: &LinkTrace, last: Option<String>) -> String {
    let all: Vec<String> = link.filter.iter().map(|filter| format!("({filter})")).chain(last).collect();
    if all.is_empty() { String::new() } else { format!("\nWHERE {}", all.join(" AND ")) }
}

fn fetch(link: &LinkTrace) -> String {
    let typed: Vec<String> =
        link.key_types.iter().enumerate().map(|(n, type_name)| format!("d.d{}::{type_name}", n + 1)).collect();
    let keys = format!("({}) IN (SELECT {} FROM {})", identity(link).join(", "), typed.join(", "), unnest(link.key_columns));
    format!("{}{}", select(link), conditions(link, Some(keys)))
}

fn page(link: &LinkTrace, from_start: bool, rows: usize) -> String {
    let columns = identity(link).join(", ");
    let bounds: Vec<String> =
        link.key_types.iter().enumerate().map(|(n, type_name)| format!("${}::text::{type_name}", n + 1)).collect();
    let after = (!from_start).then(|| format!("({columns}) > ({})", bounds.join(", ")));
    format!("{}{}\nORDER BY {columns} LIMIT {rows}", select(link), conditions(link, after))
}

fn merge(link: &LinkTrace, places: &Places) -> String {
    let state = &link.state;
    let table = quote::qualified(&places.state_schema, &state.name);
    let key = RowKey::Primary(state.key.clone());
    let same = |a: &str, b: &str| same_key(a, b, &state.key, &state.key, &key);
    let typed = |columns: &[String]| {
        let typed = columns.iter().zip(&state.types).enumerate();
        typed
            .map(|(n, (column, type_name))| format!("d.d{}::{type_name} AS {}", n + 1, quote::identifier(column)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let values: Vec<String> = state.columns.iter().skip(state.key.len()).cloned().collect();
    let texts = |prefix: &str| {
        values.iter().map(|column| format!("{prefix}.{}::text", quote::identifier(column))).collect::<Vec<_>>().join(", ")
    };
    let assignments: Vec<String> = values.iter().map(|column| format!("{0} = fresh.{0}", quote::identifier(column))).collect();
    format!(
        "WITH dirty AS MATERIALIZED (
  SELECT DISTINCT {dirty} FROM {dirty_keys}
), fresh AS MATERIALIZED (
  SELECT {distinct}{fresh} FROM {fresh_rows}
), old AS MATERIALIZED (
  SELECT t.* FROM {table} AS t JOIN dirty ON {t_is_dirty}
), gone AS (
  DELETE FROM {table} AS t USING old
  WHERE {t_is_old} AND NOT EXISTS (SELECT FROM fresh WHERE {fresh_is_old})
), changed AS (
  UPDATE {table} AS t SET {assignments} FROM fresh
  WHERE {fresh_is_t} AND {t_differs}
), added AS (
  INSERT INTO {table} ({columns})
  SELECT {fresh_columns} FROM fresh WHERE NOT EXISTS (SELECT FROM old WHERE {fresh_is_old})
)
SELECT {old_texts} FROM old
UNION
SELECT {fresh_texts} FROM fresh",
        dirty = typed(&state.key),
        dirty_keys = unnest(state.key.len()),
        fresh = typed(&state.columns),
        fresh_rows = unnest_from(state.key.len() + 1, state.columns.len()),
        // Equal rows of a table without a key have one identity.
        distinct = if link.located { "DISTINCT " } else { "" },
        t_is_dirty = same("t", "dirty"),
        t_is_old = same("t", "old"),
        fresh_is_old = same("fresh", "old"),
        fresh_is_t = same("fresh", "t"),
        t_differs = differs("t", "fresh", &state.columns),
        assignments = assignments.join(", "),
        columns = quote::list(&state.columns),
        fresh_columns = quote::prefixed_list("fresh.", &state.columns),
        old_texts = texts("old"),
        fresh_texts = texts("fresh"),
    )
}

fn trace(link: &LinkTrace) -> String {
    let value_types = link.state.types.iter().skip(link.key_columns);
    let typed: Vec<String> = value_types.enumerate().map(|(n, type_name)| format!("d.d{}::{type_name}", n + 1)).collect();
    let from = unnest(link.values.len());
    let any_null = format!("(SELECT bool_or(d.d1 IS NULL) FROM {from})");
    let null_side = link.null_side.then_some(any_null.as_str());
    restricted(&link.select, &link.values, &format!("SELECT {} FROM {from}", typed.join(", ")), link.null_value, null_side)
}
