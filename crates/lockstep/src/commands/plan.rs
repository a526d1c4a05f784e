//! `lockstep plan`: how each projection is maintained, as a tree for people and as JSON for programs.

use std::collections::BTreeMap;
use std::path::Path;

use lockstep_plan::emit;
use lockstep_plan::emit::{Fresh, Link, Places, TracedKeys};
use lockstep_plan::{Branch, GroupForm, Maintenance, Plan, Role, Tie, Trace, WholePlan};
use serde::Serialize;

use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::preflight::{self, Depth, Planned, Preflight};
use crate::{Exit, telemetry};

/// Rows a page of a link's filling has, in the statements shown.
const SHOWN_PAGE_ROWS: usize = 50_000;

#[derive(Serialize)]
struct PlanView<'a> {
    name: &'a str,
    kind: &'a str,
    incremental: bool,
    /// Why it is whole.
    reason: Option<&'a str>,
    /// Where in `query` the reason stands, in bytes from 0.
    position: Option<usize>,
    group: &'a str,
    key: &'a [String],
    /// The defining query as PostgreSQL prints it.
    query: &'a str,
    /// The projection that it is a hidden part of.
    part_of: Option<&'a str>,
    /// The projections that it reads.
    reads: &'a [String],
    /// How groups are computed.
    groups: Option<String>,
    /// Where rows that tie decide values, and what is appended to the ORDER BY there.
    ties: &'a [Tie],
    /// What its meaning depends on and no look at the catalogs shows.
    unseen: &'a [String],
    relations: Vec<RelationView<'a>>,
    state: Vec<StateView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statements: Option<Vec<StatementView>>,
}

#[derive(Serialize)]
struct RelationView<'a> {
    relation: String,
    alias: &'a str,
    /// Which of several branches (UNION, full joins) it belongs to, from 1.
    branch: usize,
    role: Role,
    reason: &'a str,
    missing_indexes: &'a [String],
}

#[derive(Serialize)]
struct StateView<'a> {
    table: String,
    purpose: &'a str,
    columns: Vec<String>,
}

#[derive(Serialize)]
struct StatementView {
    purpose: String,
    sql: String,
}

/// Shows how each projection, or one, is maintained.
///
/// # Errors
/// Standard output cannot be written.
pub async fn plan(config: &Config, name: Option<&str>, with_sql: bool, json: bool) -> anyhow::Result<Exit> {
    if let Some(exit) = super::unknown_projection(config, name.into_iter()) {
        return Ok(exit);
    }
    let preflight = preflight::run(config, Depth::Plans).await;
    let wanted =
        |planned: &&Planned| name.is_none_or(|name| planned.plan.projection == name || planned.part_of.as_deref() == Some(name));
    let planned: Vec<&Planned> = preflight.planned.iter().filter(wanted).collect();
    let views: Vec<PlanView<'_>> = planned.iter().map(|planned| view(planned, with_sql)).collect();
    if json {
        super::print_json(&views)?;
    } else {
        for view in &views {
            print_plan(view);
            println!();
        }
    }
    for error in preflight.errors(telemetry::colours()) {
        eprintln!("{error}\n");
    }
    Ok(if preflight.passed() { Exit::Good } else { Exit::Failure })
}

/// Each projection's plan with its parts, as JSON.
pub(crate) fn plans(checked: &Preflight) -> BTreeMap<String, serde_json::Value> {
    let outer = checked.planned.iter().filter(|planned| planned.part_of.is_none());
    let one = |planned: &Planned| {
        let name = &planned.plan.projection;
        let of_it = |other: &&Planned| &other.plan.projection == name || other.part_of.as_ref() == Some(name);
        let views: Vec<PlanView<'_>> = checked.planned.iter().filter(of_it).map(|planned| view(planned, false)).collect();
        (name.clone(), serde_json::to_value(views).unwrap_or_default())
    };
    outer.map(one).collect()
}

fn view(planned: &Planned, with_sql: bool) -> PlanView<'_> {
    let plan = &planned.plan;
    let whole = match &plan.maintenance {
        Maintenance::Whole(whole) => Some(whole),
        Maintenance::Row(_) | Maintenance::Grouped(_) => None,
    };
    let state = plan
        .state_tables()
        .into_iter()
        .map(|state| StateView {
            table: format!("lockstep.{}", state.name),
            purpose: &state.purpose,
            columns: state.columns.iter().zip(&state.types).map(|(name, type_name)| format!("{name} {type_name}")).collect(),
        })
        .collect();
    PlanView {
        name: &plan.projection,
        kind: plan.kind(),
        incremental: plan.is_incremental(),
        reason: whole.map(|whole| whole.reason.as_str()),
        position: whole.and_then(|whole| whole.position),
        group: &planned.group,
        key: plan.key.columns(),
        query: &plan.definition,
        part_of: planned.part_of.as_deref(),
        reads: &planned.reads,
        groups: groups(plan),
        ties: &planned.ties,
        unseen: &planned.dependencies.unseen,
        relations: relations(plan, whole),
        state,
        statements: with_sql.then(|| statements(planned)),
    }
}

/// How a projection's groups are computed; `None` if it has none.
fn groups(plan: &Plan) -> Option<String> {
    let Maintenance::Grouped(grouped) = &plan.maintenance else { return None };
    Some(match (&grouped.form, &grouped.recomputed_because) {
        (GroupForm::Aggregate { .. }, None) => "accumulated: a change costs the same whatever a group's size".to_owned(),
        (GroupForm::Aggregate { .. }, Some(reason)) => format!("recomputed from all their contributions, because {reason}"),
        (GroupForm::First { .. }, _) => "recomputed from all their contributions, of which the first counts".to_owned(),
        (GroupForm::Rows, _) => "written again, each contribution a row".to_owned(),
    })
}

fn relations<'a>(plan: &'a Plan, whole: Option<&'a WholePlan>) -> Vec<RelationView<'a>> {
    if let Some(whole) = whole {
        let view = |relation: &'a lockstep_plan::facts::Relation| RelationView {
            relation: relation.label(),
            alias: &relation.name,
            branch: 1,
            role: Role::Whole,
            reason: &whole.reason,
            missing_indexes: &[],
        };
        return plan.relations.iter().map(view).collect();
    }
    let of_branch = |(number, branch): (usize, &'a Branch)| {
        branch.roles.iter().map(move |role| RelationView {
            relation: plan.relations[role.relation].label(),
            alias: &role.alias,
            branch: number + 1,
            role: role.role,
            reason: &role.reason,
            missing_indexes: &role.missing_indexes,
        })
    };
    plan.branches().iter().enumerate().flat_map(of_branch).collect()
}

/// The statements that run for a change, in the order in which they run.
fn statements(planned: &Planned) -> Vec<StatementView> {
    let plan = &planned.plan;
    let places = Places { schema: planned.schema.clone(), state_schema: "lockstep".to_owned() };
    let mut all = Vec::new();
    let mut add = |purpose: String, sql: String| all.push(StatementView { purpose, sql });
    for branch in plan.branches() {
        for role in &branch.roles {
            let name = format!("{} as {}", plan.relations[role.relation].label(), role.alias);
            match &role.trace {
                Trace::Keys(sql) => add(format!("trace: from dirty keys of {name} to root keys"), sql.clone()),
                Trace::Link(link) => {
                    let link = Link::new(link, &places, SHOWN_PAGE_ROWS);
                    add(format!("link: what the dirty rows of {name} are joined by now"), link.fetch);
                    add("link: keep that; returns what they were and are joined by".to_owned(), link.merge);
                    add("trace: from those values to root keys".to_owned(), link.trace);
                }
                Trace::Root | Trace::Whole => {}
            }
        }
    }
    match &plan.maintenance {
        Maintenance::Row(row) => {
            let merge = emit::row_merge(plan, row, &places, TracedKeys::Bound, &Fresh::Query);
            add("refresh: the rows of bound root keys".to_owned(), merge.in_place);
        }
        Maintenance::Grouped(grouped) => {
            for branch in &grouped.branches {
                let Some(state) = &branch.contributions else { continue };
                let (what, sql) = match &grouped.accumulators {
                    Some(accumulators) => (
                        "contributions, and with them the accumulators,",
                        emit::contribution_merge_accumulating(branch, state, grouped, accumulators, &places, &Fresh::Query),
                    ),
                    None => (
                        "contributions",
                        emit::contribution_merge(
                            branch,
                            state,
                            &grouped.group_columns,
                            &places,
                            TracedKeys::Bound,
                            &Fresh::Query,
                        ),
                    ),
                };
                let root = format!("{}.{}", branch.root.schema, branch.root.name);
                add(format!("refresh: the {what} of bound root keys of {root}; returns the groups touched"), sql);
            }
            let from = if grouped.accumulators.is_some() { "accumulators" } else { "contributions" };
            add(
                format!("refresh: the bound groups, from their {from}"),
                emit::group_merge(plan, grouped, &places, TracedKeys::Bound).in_place,
            );
        }
        Maintenance::Whole(_) => {
            add("refresh: everything".to_owned(), emit::whole_merge(plan, &places, &Fresh::Query).in_place);
        }
    }
    all
}

fn print_plan(view: &PlanView<'_>) {
    let how = match (view.reason, view.incremental) {
        (Some(_), _) if !view.reads.is_empty() => format!("recomputed from {} when that has changed", view.reads.join(", ")),
        (Some(_), _) => "whole: recomputed when a relation changes".to_owned(),
        (None, true) => format!("{}, incremental", view.kind),
        (None, false) => format!("{}, incremental for some of its relations", view.kind),
    };
    let hidden = view.part_of.map(|whole| format!(", inner part of {whole}")).unwrap_or_default();
    println!("{}  ({how}{hidden})", view.name);
    if let Some(reason) = view.reason {
        let mut note = Diagnostic::note(format!("not incremental, because {reason}"));
        if let Some(position) = view.position.filter(|position| view.query.is_char_boundary(*position)) {
            let characters = view.query[..position].chars().count();
            note = note.at_character(Path::new("the query as PostgreSQL prints it"), view.query, characters);
        }
        println!("{}", note.render(telemetry::colours()));
    }
    let key = if view.key.is_empty() { "none".to_owned() } else { view.key.join(", ") };
    let mut branches: Vec<String> = vec![format!("group {}, key {key}", view.group)];
    branches.extend(view.groups.iter().map(|groups| format!("groups  {groups}")));
    branches.extend(view.ties.iter().map(|tie| match tie.appended.as_slice() {
        [] => format!("open    {}: rows that tie decide values, and nothing can be appended to its ORDER BY", tie.construct),
        appended => format!("order   {}: with {} appended, so that it is determined", tie.construct, appended.join(", ")),
    }));
    branches.extend(view.unseen.iter().map(|unseen| format!("unseen  {unseen}; after a change there: lockstep repair")));
    let several = view.relations.iter().any(|relation| relation.branch > 1);
    for relation in &view.relations {
        branches.push(relation_line(relation, several, view.reason.is_some()));
    }
    for state in &view.state {
        branches.push(format!("state   {} ({}): {}", state.table, state.columns.join(", "), state.purpose));
    }
    for (index, branch) in branches.iter().enumerate() {
        let last = index + 1 == branches.len();
        let mut lines = branch.lines();
        println!("{} {}", if last { "└─" } else { "├─" }, lines.next().unwrap_or_default());
        for line in lines {
            println!("{}  {line}", if last { " " } else { "│" });
        }
    }
    for statement in view.statements.iter().flatten() {
        println!("\n  -- {}\n{}", statement.purpose, indent(&statement.sql));
    }
}

fn relation_line(relation: &RelationView<'_>, several: bool, whole: bool) -> String {
    let alias = if relation.relation.ends_with(&format!(".{}", relation.alias)) {
        String::new()
    } else {
        format!(" as {}", relation.alias)
    };
    let branch = if several { format!(" (branch {})", relation.branch) } else { String::new() };
    let mut line = format!("{:7} {}{alias}{branch}", relation.role.to_string(), relation.relation);
    if !whole {
        line.push_str(&format!(": {}", relation.reason));
    }
    for index in relation.missing_indexes {
        line.push_str(&format!("\n        missing on the source: {index}"));
    }
    line
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
