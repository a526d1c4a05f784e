//! Projections that read projections: what a query's text names, and how those names are stood for while it is analysed.
//!
//! PostgreSQL resolves a query's names by making a view of it. The tables of projections may not exist yet, or be on another
//! server, so they are stood for by temporary tables, whose names PostgreSQL then prints without a schema.
//!
//! The rule: a projection's table is a relation whose identity is its row key; the keys that a batch wrote are its dirty keys.

use pg_query::protobuf::Alias;

use crate::syntax::{self, for_each_table, with_large_stack};

/// The name of the temporary table that stands for a projection.
pub fn stand_in(projection: &str) -> String {
    format!("lockstep:{projection}")
}

/// A place in a text that was replaced by a longer or shorter one: character position after the replacement, and by how much the
/// text grew.
pub type Shift = (usize, isize);

/// A query's text with the names of projections replaced by their stand-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoodFor {
    /// The text.
    pub sql: String,
    /// The projections that it reads, each once.
    pub projections: Vec<String>,
    /// What has moved.
    pub shifts: Vec<Shift>,
}

impl StoodFor {
    /// Where a character position of the new text lies in the old one.
    pub fn original_position(&self, position: usize) -> usize {
        let grown: isize = self.shifts.iter().filter(|(at, _)| *at <= position).map(|(_, by)| by).sum();
        position.saturating_add_signed(-grown)
    }
}

/// Replaces `schema.name` by the stand-in wherever `name` is one of `projections`. A text that does not parse is left as it is:
/// PostgreSQL will say why.
pub fn stand_for_projections(sql: &str, schema: &str, projections: &[&str]) -> StoodFor {
    replaced(sql, schema, projections, &|name| crate::model::quote::identifier(&stand_in(name)))
}

/// Lets a text read other projections: each of `projections` followed by `suffix`.
pub fn with_suffixed_projections(sql: &str, schema: &str, projections: &[&str], suffix: &str) -> String {
    replaced(sql, schema, projections, &|name| crate::model::quote::qualified(schema, &format!("{name}{suffix}"))).sql
}

/// Lets a text read another table: `schema.name`, given unquoted, becomes `other_schema.other_name`; the columns' qualifiers stay.
pub fn with_other_table(sql: &str, (schema, name): (&str, &str), (other_schema, other_name): (&str, &str)) -> String {
    replaced(sql, schema, &[name], &|_| crate::model::quote::qualified(other_schema, other_name)).sql
}

fn replaced(sql: &str, schema: &str, projections: &[&str], table: &dyn Fn(&str) -> String) -> StoodFor {
    let found = with_large_stack(|| named_in(sql, schema, projections)).unwrap_or_else(Err).unwrap_or_default();
    let mut result = StoodFor::default();
    let mut rest = 0;
    for (start, name, has_alias) in found {
        let Some(end) = end_of_qualified_name(sql, start) else { continue };
        result.sql.push_str(&sql[rest..start]);
        let mut replacement = table(&name);
        if !has_alias {
            replacement.push_str(&format!(" AS {}", crate::model::quote::identifier(&name)));
        }
        result.sql.push_str(&replacement);
        let grown = replacement.chars().count().cast_signed() - sql[start..end].chars().count().cast_signed();
        result.shifts.push((result.sql.chars().count(), grown));
        if !result.projections.contains(&name) {
            result.projections.push(name);
        }
        rest = end;
    }
    result.sql.push_str(&sql[rest..]);
    result
}

/// Byte position, name, whether an alias follows; in text order.
fn named_in(sql: &str, schema: &str, projections: &[&str]) -> Result<Vec<(usize, String, bool)>, String> {
    let mut select = syntax::parse_select(sql)?;
    let mut found = Vec::new();
    for_each_table(&mut select, &mut |table| {
        if table.schemaname == schema && projections.contains(&table.relname.as_str()) {
            found.push((usize::try_from(table.location).unwrap_or_default(), table.relname.clone(), table.alias.is_some()));
        }
        Ok(())
    })?;
    found.sort_unstable();
    Ok(found)
}

/// The end of `schema.name`, either part quoted or not.
fn end_of_qualified_name(sql: &str, start: usize) -> Option<usize> {
    let first = end_of_identifier(sql, start)?;
    let dot = first + sql.get(first..)?.find('.')?;
    let second = dot + 1 + sql.get(dot + 1..)?.find(|c: char| !c.is_whitespace())?;
    end_of_identifier(sql, second)
}

fn end_of_identifier(sql: &str, start: usize) -> Option<usize> {
    let text = sql.get(start..)?;
    if let Some(quoted) = text.strip_prefix('"') {
        let mut characters = quoted.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            if character == '"' && characters.next_if(|(_, next)| *next == '"').is_none() {
                return Some(start + 1 + at + 1);
            }
        }
        return None;
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    Some(start + text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

/// A projection's table and its stand-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectionTable {
    /// The projection's name.
    pub projection: String,
    /// The table's schema. Its name is the projection's.
    pub schema: String,
}

/// Replaces stand-ins by the tables that they stand for.
///
/// # Errors
/// The query cannot be parsed or printed again.
pub fn tables_of_stand_ins(sql: &str, tables: &[ProjectionTable]) -> Result<String, String> {
    renamed(sql, &|schema, name| {
        let found = tables.iter().find(|table| schema.is_empty() && name == stand_in(&table.projection))?;
        Some((found.schema.clone(), found.projection.clone()))
    })
}

/// Replaces tables of projections by their stand-ins.
///
/// # Errors
/// The query cannot be parsed or printed again.
pub fn stand_ins_of_tables(sql: &str, tables: &[ProjectionTable]) -> Result<String, String> {
    renamed(sql, &|schema, name| {
        let found = tables.iter().find(|table| table.schema == schema && table.projection == name)?;
        Some((String::new(), stand_in(&found.projection)))
    })
}

/// Lets a text that reads stand-ins of projections read those of others: pairs of names, from and to.
///
/// # Errors
/// The query cannot be parsed or printed again.
pub fn with_other_stand_ins(sql: &str, others: &[(String, String)]) -> Result<String, String> {
    renamed(sql, &|schema, name| {
        let (_, to) = others.iter().find(|(from, _)| schema.is_empty() && name == stand_in(from))?;
        Some((String::new(), stand_in(to)))
    })
}

/// A query over tables of projections as one over what those are made from: schema, name and query of each, those that are read first.
///
/// # Errors
/// The query cannot be parsed or printed again.
pub fn with_parts_before(sql: &str, parts: &[(&str, &str, &str)]) -> Result<String, String> {
    let named = |schema: &str, name: &str| parts.iter().any(|(of, part, _)| (*of, *part) == (schema, name));
    let over = renamed(sql, &|schema, name| named(schema, name).then(|| (String::new(), stand_in(name))))?;
    let queries: Vec<String> = parts
        .iter()
        .map(|(_, name, query)| format!("{} AS (\n{query}\n)", crate::model::quote::identifier(&stand_in(name))))
        .collect();
    if queries.is_empty() { Ok(over) } else { Ok(format!("WITH {}\nSELECT * FROM (\n{over}\n) AS over", queries.join(",\n"))) }
}

/// Another schema and name for a schema and name, if they are to be replaced.
type Renaming<'a> = dyn Fn(&str, &str) -> Option<(String, String)> + Sync + 'a;

fn renamed(sql: &str, new_name: &Renaming<'_>) -> Result<String, String> {
    let rename = || {
        let mut select = syntax::parse_select(sql)?;
        for_each_table(&mut select, &mut |table| {
            if let Some((schema, name)) = new_name(&table.schemaname, &table.relname) {
                table.schemaname = schema;
                let written = std::mem::replace(&mut table.relname, name);
                table.alias.get_or_insert_with(|| Alias { aliasname: written, colnames: Vec::new() });
            }
            Ok(())
        })?;
        syntax::print_select_pretty(&select)
    };
    with_large_stack(rename).unwrap_or_else(Err)
}
