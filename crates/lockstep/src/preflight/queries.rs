//! The queries: analysed, planned, and their keys checked.

use std::path::Path;

use lockstep_connect::{ErrorClass, Session};
use lockstep_plan::facts::RelationKind;
use lockstep_plan::{Maintenance, quote};
use lockstep_refresh::analysis::{self, AnalysisError, Definition};

use super::{Depth, Planned, Preflight, group_of};
use crate::config::{Config, ProjectionConfig};
use crate::diagnostic::Diagnostic;

pub(super) async fn plan_all(config: &Config, source: &Session, preflight: &mut Preflight) {
    for projection in &config.projections {
        let subject = format!("projection {}", projection.name);
        match plan_one(config, projection, source).await {
            Ok(planned) => {
                preflight.ok(&subject, describe(&planned));
                for role in planned.plan.branches().iter().flat_map(|branch| &branch.roles) {
                    for index in &role.missing_indexes {
                        preflight.warn(
                            &subject,
                            format!("a change of {} is followed without an index", role.alias),
                            format!("on the source: {index}"),
                        );
                    }
                }
                for relation in &planned.plan.relations {
                    if relation.kind == RelationKind::Partitioned {
                        preflight.warn(
                            &subject,
                            format!("{} is partitioned: TRUNCATE, ATTACH and DETACH of a single partition send no changes", relation.label()),
                            "delete rows instead, or truncate the whole table; after such a change restart with lockstep teardown and run",
                        );
                    }
                }
                preflight.planned.push(planned);
            }
            Err(diagnostic) => preflight.diagnostic(subject, diagnostic),
        }
    }
}

fn describe(planned: &Planned) -> String {
    let roots: Vec<String> =
        planned.plan.branches().iter().map(|branch| format!("{}.{}", branch.root.schema, branch.root.name)).collect();
    match &planned.plan.maintenance {
        Maintenance::Row(_) => format!("row projection of {}", roots.join(" and ")),
        Maintenance::Grouped(_) => format!("grouped projection of {}", roots.join(" and ")),
        Maintenance::Whole(plan) => format!("recomputed as a whole, because {}", plan.reason),
    }
}

async fn plan_one(config: &Config, projection: &ProjectionConfig, source: &Session) -> Result<Planned, Diagnostic> {
    let definition = Definition {
        name: projection.name.clone(),
        sql: projection.sql.clone(),
        key: projection.key.clone(),
        time_zone: projection.time_zone.clone(),
    };
    if !analysis::is_time_zone(source, &projection.time_zone)
        .await
        .map_err(|error| in_query(config, projection, &error.into()))?
    {
        return Err(wrong_time_zone(config, projection));
    }
    let query = analysis::analyse(source, &definition).await.map_err(|error| in_query(config, projection, &error))?;
    let mut plan = lockstep_plan::plan(&query)
        .map_err(|error| Diagnostic::error(format!("projection {}: {}", projection.name, error.message)).help(error.hint))?;
    let comparable = match &plan.maintenance {
        Maintenance::Grouped(grouped) => grouped.group_columns.iter().chain(&grouped.dependent_columns).cloned().collect(),
        Maintenance::Row(_) | Maintenance::Whole(_) => Vec::new(),
    };
    let mut obstacle = None;
    for state in plan.state_tables_mut() {
        match analysis::result_types(source, &state.definition, &comparable).await {
            Ok(types) => state.types = types,
            Err(error) if error.class == ErrorClass::Definite => {
                obstacle.get_or_insert(format!("its hidden state cannot be stored: {}", error.message));
            }
            Err(error) => return Err(in_query(config, projection, &error)),
        }
    }
    if let Some(reason) = obstacle {
        plan = lockstep_plan::plan_whole(&query, &reason);
    }
    let group = group_of(projection.group.as_ref(), &plan);
    Ok(Planned { plan, group, time_zone: projection.time_zone.clone(), indexes: projection.indexes.clone() })
}

fn wrong_time_zone(config: &Config, projection: &ProjectionConfig) -> Diagnostic {
    let message = format!("projection {}: the source knows no time zone \"{}\"", projection.name, projection.time_zone);
    let diagnostic = Diagnostic::error(message)
        .help("for example \"Europe/Berlin\" or \"UTC\"; SELECT name FROM pg_timezone_names lists them");
    match (&projection.time_zone_span, std::fs::read_to_string(&config.path)) {
        (Some(span), Ok(text)) => diagnostic.at(&config.path, &text, span.clone()),
        _ => diagnostic,
    }
}

fn in_query(config: &Config, projection: &ProjectionConfig, error: &AnalysisError) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(format!("projection {}: {}", projection.name, error.message));
    let path = projection.query_path.as_deref().unwrap_or(Path::new("sql"));
    if let Some(position) = error.position {
        diagnostic = diagnostic.at_character(path, &projection.sql, position);
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
        (None, _) => diagnostic.help(format!("correct the query in {}", path.display())),
    }
}

/// Keys whose uniqueness does not follow from the plan are looked for in the data: always by `check`, and by `run` for a projection
/// that is not built yet.
pub(super) async fn check_keys(source: &Session, depth: Depth, registered: &[String], preflight: &mut Preflight) {
    for index in 0..preflight.planned.len() {
        let plan = &preflight.planned[index].plan;
        let needs = plan.key_needs_check && (depth == Depth::Full || !registered.contains(&plan.projection));
        let key = plan.declared_key.clone().unwrap_or_else(|| plan.key.columns().to_vec());
        if !needs || key.is_empty() {
            continue;
        }
        let subject = format!("projection {}", plan.projection);
        match analysis::duplicate_key(source, &plan.query, &key).await {
            Ok(None) => preflight.ok(subject, format!("its key ({}) is unique in the data", key.join(", "))),
            Ok(Some((rows, values))) => {
                let shown: Vec<String> =
                    values.iter().map(|(column, value)| format!("{column} = {}", value.as_deref().unwrap_or("NULL"))).collect();
                preflight.error(
                    subject,
                    format!("its key ({}) is not unique: {rows} rows have {}", key.join(", "), shown.join(", ")),
                    "add columns to key, or leave key out and the result is kept as a multiset",
                );
            }
            Err(error) => {
                preflight.error(subject, lockstep_connect::describe(&error), "correct the query, or the data it fails on");
            }
        }
    }
}
