//! `lockstep plan`.

use lockstep_plan::sql::{self, Fresh, Places, TracedKeys};
use lockstep_plan::{Maintenance, Plan, Role};
use serde::Serialize;

use crate::config::Config;
use crate::preflight::{self, Depth, Planned};
use crate::{Exit, telemetry};

#[derive(Serialize)]
struct PlanView<'a> {
    name: &'a str,
    kind: &'a str,
    incremental: bool,
    reason: Option<&'a str>,
    group: &'a str,
    key: &'a [String],
    relations: Vec<RelationView<'a>>,
    state: Vec<StateView<'a>>,
}

#[derive(Serialize)]
struct RelationView<'a> {
    relation: String,
    alias: &'a str,
    role: Role,
    reason: &'a str,
    missing_index: Option<&'a str>,
}

#[derive(Serialize)]
struct StateView<'a> {
    table: String,
    purpose: &'a str,
    columns: Vec<String>,
}

/// Shows how each projection, or one, is maintained.
///
/// # Errors
/// Standard output cannot be written.
pub async fn plan(config: &Config, name: Option<&str>, with_sql: bool, json: bool) -> anyhow::Result<Exit> {
    if let Some(name) = name
        && !config.projections.iter().any(|projection| projection.name == name)
    {
        let names: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
        eprintln!("error: no projection \"{name}\" in {}; there are {}", config.path.display(), names.join(", "));
        return Ok(Exit::Usage);
    }
    let preflight = preflight::run(config, Depth::Plans).await;
    let wanted = |planned: &&Planned| name.is_none_or(|name| planned.plan.projection == name);
    let planned: Vec<&Planned> = preflight.planned.iter().filter(wanted).collect();
    if json {
        super::print_json(&planned.iter().map(|planned| view(planned)).collect::<Vec<_>>())?;
    } else {
        for planned in &planned {
            print_plan(&view(planned));
            if with_sql {
                print_statements(config, &planned.plan);
            }
            println!();
        }
    }
    for error in preflight.errors(telemetry::colours()) {
        eprintln!("{error}\n");
    }
    Ok(if preflight.passed() { Exit::Good } else { Exit::Failure })
}

fn view(planned: &Planned) -> PlanView<'_> {
    let plan = &planned.plan;
    let relations = plan
        .relations
        .iter()
        .flat_map(|relation| {
            relation.roles.iter().map(|role| RelationView {
                relation: relation.relation.label(),
                alias: &role.alias,
                role: role.role,
                reason: &role.reason,
                missing_index: role.missing_index.as_deref(),
            })
        })
        .collect();
    let state = plan
        .state_tables()
        .into_iter()
        .map(|state| StateView {
            table: format!("lockstep.{}", state.name),
            purpose: &state.purpose,
            columns: state
                .columns
                .iter()
                .zip(&planned.contribution_types)
                .map(|(column, kind)| format!("{column} {kind}"))
                .collect(),
        })
        .collect();
    let reason = match &plan.maintenance {
        Maintenance::Whole(whole) => Some(whole.reason.as_str()),
        Maintenance::Row(_) | Maintenance::Aggregate(_) => None,
    };
    PlanView {
        name: &plan.projection,
        kind: plan.kind(),
        incremental: plan.is_incremental(),
        reason,
        group: &planned.group,
        key: plan.key.columns(),
        relations,
        state,
    }
}

fn print_plan(view: &PlanView<'_>) {
    let how = match view.reason {
        Some(reason) => format!("whole: recomputed when a relation changes, because {reason}"),
        None => format!("{}, incremental", view.kind),
    };
    println!("{}  ({how})", view.name);
    let key = if view.key.is_empty() { "none".to_owned() } else { view.key.join(", ") };
    println!("  group {}, key {key}", view.group);
    for relation in &view.relations {
        let alias = if relation.relation.ends_with(&format!(".{}", relation.alias)) {
            String::new()
        } else {
            format!(" as {}", relation.alias)
        };
        if view.incremental {
            println!("  {:7} {}{alias}: {}", relation.role.to_string(), relation.relation, relation.reason);
        } else {
            println!("  {:7} {}{alias}", relation.role.to_string(), relation.relation);
        }
        if let Some(index) = relation.missing_index {
            println!("          missing on the source: {index}");
        }
    }
    for state in &view.state {
        println!("  state   {} ({}): {}", state.table, state.columns.join(", "), state.purpose);
    }
}

fn print_statements(config: &Config, plan: &Plan) {
    let places = Places { schema: config.schema.clone(), state_schema: "lockstep".to_owned() };
    let show = |title: &str, statement: &str| println!("\n  -- {title}\n{}", indent(statement));
    for relation in &plan.relations {
        for role in &relation.roles {
            if let Some(trace) = &role.trace {
                show(&format!("trace: from dirty keys of {} to root keys", relation.relation.label()), trace);
            }
        }
    }
    match &plan.maintenance {
        Maintenance::Row(row) => {
            let merge = sql::row_merge(plan, row, &places, TracedKeys::Bound, &Fresh::Query);
            show("refresh: the rows of bound root keys", &merge.in_place);
        }
        Maintenance::Aggregate(aggregate) => {
            let contributions = sql::contribution_merge(aggregate, &places, TracedKeys::Bound, &Fresh::Query);
            show("refresh: the contributions of bound root keys; returns the groups touched", &contributions);
            let groups = sql::group_merge(plan, aggregate, &places, TracedKeys::Bound);
            show("refresh: the bound groups, from their contributions", &groups.in_place);
        }
        Maintenance::Whole(_) => {
            show("refresh: everything", &sql::whole_merge(plan, &places, &Fresh::Query).in_place);
        }
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
