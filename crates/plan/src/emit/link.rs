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
use crate::model::agreement::restricted;
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::model::trace::{Concerned, LinkTrace, satisfying, unnest, unnest_from};

/// The statements, made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// On the source: of the dirty keys (`$1::text[]`…) those rows that matter: identity and values, as text.
    pub fetch: String,
    /// On the source: the rows after the identity bound to `$1`…, in order.
    pub next_page: String,
    /// The same from the start.
    pub first_page: String,
    /// On the source: all there is to keep, once, where it is not kept row by row.
    pub all: Option<String>,
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
            all: link.located.then(|| format!("{}{}", select(link, true), conditions(link, None))),
            merge: merge(link, places),
            clear: format!("DELETE FROM {}", quote::qualified(&places.state_schema, &link.state.name)),
            trace: trace(link),
            key_columns: link.key_columns,
            value_columns: value_columns(link),
        }
    }
}

/// The identity, over the relation's alias.
fn identity(link: &LinkTrace) -> &[String] {
    &link.expressions[..link.key_columns]
}

fn select(link: &LinkTrace, once: bool) -> String {
    let texts: Vec<String> = link.expressions.iter().map(|expression| format!("({expression})::text")).collect();
    let distinct = if once { "DISTINCT " } else { "" };
    format!("SELECT {distinct}{}\nFROM {} AS {}", texts.join(", "), link.table, link.alias)
}

fn conditions(link: &LinkTrace, last: Option<String>) -> String {
    let all: Vec<String> = link.filter.iter().map(|filter| format!("({filter})")).chain(last).collect();
    if all.is_empty() { String::new() } else { format!("\nWHERE {}", all.join(" AND ")) }
}

fn fetch(link: &LinkTrace) -> String {
    let typed: Vec<String> =
        link.key_types.iter().enumerate().map(|(n, type_name)| format!("d.d{}::{type_name}", n + 1)).collect();
    let keys = format!("({}) IN (SELECT {} FROM {})", identity(link).join(", "), typed.join(", "), unnest(link.key_columns));
    format!("{}{}", select(link, false), conditions(link, Some(keys)))
}

fn page(link: &LinkTrace, from_start: bool, rows: usize) -> String {
    let columns = identity(link).join(", ");
    let bounds: Vec<String> =
        link.key_types.iter().enumerate().map(|(n, type_name)| format!("${}::text::{type_name}", n + 1)).collect();
    let after = (!from_start).then(|| format!("({columns}) > ({})", bounds.join(", ")));
    format!("{}{}\nORDER BY {columns} LIMIT {rows}", select(link, false), conditions(link, after))
}

/// What the parts of a merge have in common.
struct Parts {
    table: String,
    columns: String,
    dirty: String,
    fresh: String,
    old_texts: String,
    fresh_texts: String,
}

fn parts(link: &LinkTrace, places: &Places) -> Parts {
    let state = &link.state;
    let typed = |columns: &[String]| {
        let typed = columns.iter().zip(&state.types).enumerate();
        typed
            .map(|(n, (column, type_name))| format!("d.d{}::{type_name} AS {}", n + 1, quote::identifier(column)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let texts = |prefix: &str| {
        let values = state.columns.iter().skip(state.key.len());
        values.map(|column| format!("{prefix}.{}::text", quote::identifier(column))).collect::<Vec<_>>().join(", ")
    };
    Parts {
        table: quote::qualified(&places.state_schema, &state.name),
        columns: quote::list(&state.columns),
        dirty: typed(&state.key),
        fresh: typed(&state.columns),
        old_texts: texts("old"),
        fresh_texts: texts("fresh"),
    }
}

fn merge(link: &LinkTrace, places: &Places) -> String {
    if link.located {
        return merge_sets(link, places);
    }
    let state = &link.state;
    let Parts { table, columns, dirty, fresh, old_texts, fresh_texts } = parts(link, places);
    let key = RowKey::Primary(state.key.clone());
    let same = |a: &str, b: &str| same_key(a, b, &state.key, &state.key, &key);
    let values = state.columns.iter().skip(state.key.len());
    let assignments: Vec<String> = values.map(|column| format!("{0} = fresh.{0}", quote::identifier(column))).collect();
    format!(
        "WITH dirty AS MATERIALIZED (
  SELECT DISTINCT {dirty} FROM {dirty_keys}
), fresh AS MATERIALIZED (
  SELECT {fresh} FROM {fresh_rows}
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
        dirty_keys = unnest(state.key.len()),
        fresh_rows = unnest_from(state.key.len() + 1, state.columns.len()),
        t_is_dirty = same("t", "dirty"),
        t_is_old = same("t", "old"),
        fresh_is_old = same("fresh", "old"),
        fresh_is_t = same("fresh", "t"),
        t_differs = differs("t", "fresh", &state.columns),
        assignments = assignments.join(", "),
        fresh_columns = quote::prefixed_list("fresh.", &state.columns),
    )
}

/// Where the identity is a hash, what is kept of it is a set: what any row of that hash is joined by. Values are told apart by how they
/// look, because an expression may tell 1.0 from 1.00.
fn merge_sets(link: &LinkTrace, places: &Places) -> String {
    let state = &link.state;
    let Parts { table, columns, dirty, fresh, old_texts, fresh_texts } = parts(link, places);
    let same_key = |a: &str, b: &str| same_key(a, b, &state.key, &state.key, &RowKey::Primary(state.key.clone()));
    let same = |a: &str, b: &str| format!("{} AND NOT {}", same_key(a, b), differs(a, b, &state.columns));
    format!(
        "WITH dirty AS MATERIALIZED (
  SELECT DISTINCT {dirty} FROM {dirty_keys}
), fresh AS MATERIALIZED (
  SELECT {fresh} FROM (SELECT DISTINCT * FROM {fresh_rows}) AS d
), old AS MATERIALIZED (
  SELECT t.* FROM {table} AS t JOIN dirty ON {t_is_dirty}
), gone AS (
  DELETE FROM {table} AS t USING dirty
  WHERE {t_is_dirty} AND NOT EXISTS (SELECT FROM fresh WHERE {fresh_is_t})
), added AS (
  INSERT INTO {table} ({columns})
  SELECT {fresh_columns} FROM fresh WHERE NOT EXISTS (SELECT FROM old WHERE {fresh_is_old})
)
SELECT {old_texts} FROM old
UNION
SELECT {fresh_texts} FROM fresh",
        dirty_keys = unnest(state.key.len()),
        fresh_rows = unnest_from(state.key.len() + 1, state.columns.len()),
        t_is_dirty = same_key("t", "dirty"),
        fresh_is_t = same("fresh", "t"),
        fresh_is_old = same("fresh", "old"),
        fresh_columns = quote::prefixed_list("fresh.", &state.columns),
    )
}

fn trace(link: &LinkTrace) -> String {
    let value_types = link.state.types.iter().skip(link.key_columns);
    let typed: Vec<String> = value_types.enumerate().map(|(n, type_name)| format!("d.d{}::{type_name}", n + 1)).collect();
    let from = unnest(value_columns(link));
    match &link.concerned {
        Concerned::Agreeing(values) => restricted(&link.select, values, &typed, &from),
        Concerned::Satisfying(conditions) => satisfying(&link.select, conditions, &typed, &from),
    }
}

fn value_columns(link: &LinkTrace) -> usize {
    link.expressions.len() - link.key_columns
}
