//! What is wrong with a query, pointing into the file in which it stands.

use std::path::Path;

use lockstep_config::{Config, Diagnostic, ProjectionConfig};
use lockstep_plan::quote;
use lockstep_refresh::analysis::AnalysisError;

pub(crate) fn wrong_time_zone(config: &Config, projection: &ProjectionConfig) -> Diagnostic {
    let message = format!("projection {}: the source knows no time zone \"{}\"", projection.name, projection.time_zone);
    let diagnostic = Diagnostic::error(message)
        .help("for example \"Europe/Berlin\" or \"UTC\"; SELECT name FROM pg_timezone_names lists them");
    match (&projection.time_zone_span, std::fs::read_to_string(&config.path)) {
        (Some(span), Ok(text)) => diagnostic.at(&config.path, &text, span.clone()),
        _ => diagnostic,
    }
}

/// Points at a character of a query, in the file in which it stands.
fn at_query(config: &Config, projection: &ProjectionConfig, diagnostic: Diagnostic, position: usize) -> Diagnostic {
    if let Some(path) = &projection.query_path {
        return diagnostic.at_character(path, &projection.sql, position);
    }
    let text = std::fs::read_to_string(&config.path).unwrap_or_default();
    match projection.sql_start.filter(|&start| text.get(start..).is_some_and(|rest| rest.starts_with(&projection.sql))) {
        Some(start) => diagnostic.at_character(&config.path, &text, text[..start].chars().count() + position),
        None => diagnostic.at_character(Path::new("sql"), &projection.sql, position),
    }
}

/// A cube's query is ours; what is wrong with it is what was asked for.
fn in_facets(config: &Config, cube: &ProjectionConfig, of: &str, error: &AnalysisError) -> Diagnostic {
    let diagnostic = Diagnostic::error(format!("projection {}: facets of {of}: {}", cube.name, error.message.replace("t.", "")))
        .help("facets are columns of the projection whose values can be compared");
    match (&cube.facets_span, std::fs::read_to_string(&config.path)) {
        (Some(span), Ok(text)) => diagnostic.at(&config.path, &text, span.clone()),
        _ => diagnostic,
    }
}

pub(crate) fn in_query(config: &Config, projection: &ProjectionConfig, error: &AnalysisError) -> Diagnostic {
    if let Some(of) = &projection.cube_of {
        return in_facets(config, projection, of, error);
    }
    let mut diagnostic = Diagnostic::error(format!("projection {}: {}", projection.name, error.message));
    if let Some(position) = error.position {
        diagnostic = at_query(config, projection, diagnostic, position);
    }
    match (&error.hint, error.sqlstate.as_deref()) {
        (Some(hint), _) => diagnostic.help(hint.as_str()),
        (None, Some("42501")) => diagnostic.help(format!(
            "as the owner: GRANT USAGE ON SCHEMA … TO {0}; GRANT SELECT ON … TO {0};",
            quote::identifier(config.source.user())
        )),
        (None, Some("42P01" | "42703" | "42883" | "3F000")) => {
            diagnostic.help("qualify table names with their schema, and quote names that are not lower-case (\"createdAt\")")
        }
        (None, _) => {
            let path = projection.query_path.as_ref().unwrap_or(&config.path);
            diagnostic.help(format!("correct the query in {}", path.display()))
        }
    }
}
