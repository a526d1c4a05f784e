//! `lockstep plan`: how each projection is maintained, as a tree for people and as JSON for programs.

use std::path::Path;

use lockstep_config::{Config, Diagnostic};
use lockstep_preflight::{self as preflight, Depth, PlanView, Planned, RelationView, view};

use super::common;
use crate::{Exit, logging};

/// Shows how each projection, or one, is maintained.
///
/// # Errors
/// The JSON cannot be written. What is wrong with servers and queries is a finding, told with exit status 1.
pub async fn plan(config: &Config, name: Option<&str>, with_sql: bool, json: bool) -> anyhow::Result<Exit> {
    if let Some(exit) = common::unknown_projection(config, name.into_iter()) {
        return Ok(exit);
    }
    let preflight = preflight::run(config, Depth::Plans).await;
    let wanted = |planned: &&Planned| name.is_none_or(|name| preflight.is_of(planned, name));
    let planned: Vec<&Planned> = preflight.planned.iter().filter(wanted).collect();
    let views: Vec<PlanView<'_>> = planned.iter().map(|planned| view(planned, with_sql)).collect();
    if json {
        common::print_json(&views)?;
    } else {
        for view in views.iter().filter(|view| view.part_of.is_none()) {
            print_tree(view, &views, 0);
        }
    }
    for error in preflight.errors(logging::colours()) {
        eprintln!("{error}\n");
    }
    Ok(if preflight.passed() { Exit::Good } else { Exit::Failure })
}

/// A projection, and below it the blocks that it is made of.
fn print_tree(view: &PlanView<'_>, all: &[PlanView<'_>], depth: usize) {
    let margin = "    ".repeat(depth);
    for line in plan_text(view).lines() {
        println!("{}", format!("{margin}{line}").trim_end());
    }
    println!();
    for block in all.iter().filter(|block| block.part_of == Some(view.name)) {
        print_tree(block, all, depth + 1);
    }
}

fn plan_text(view: &PlanView<'_>) -> String {
    let how = match (view.reason, view.incremental) {
        (Some(_), _) if !view.reads.is_empty() => format!("recomputed from {} when that has changed", view.reads.join(", ")),
        (Some(_), _) => "whole: recomputed when a relation changes".to_owned(),
        (None, true) => format!("{}, incremental", view.kind),
        (None, false) => format!("{}, incremental for some of its relations", view.kind),
    };
    let block = view.part_of.map(|_| "block ").unwrap_or_default();
    let mut text = format!("{block}{}  ({how})\n", view.name);
    if let Some(reason) = view.reason {
        let mut note = Diagnostic::note(format!("not incremental, because {reason}"));
        if let Some(position) = view.position.filter(|position| view.query.is_char_boundary(*position)) {
            let characters = view.query[..position].chars().count();
            note = note.at_character(Path::new("the query as PostgreSQL prints it"), view.query, characters);
        }
        text.push_str(&format!("{}\n", note.render(logging::colours())));
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
    let indexes = view.indexes.unwrap_or_default().lines();
    branches.extend(indexes.filter(|_| view.part_of.is_some()).map(|index| format!("index   {}", index.trim_end_matches(';'))));
    for (index, branch) in branches.iter().enumerate() {
        let last = index + 1 == branches.len();
        let mut lines = branch.lines();
        text.push_str(&format!("{} {}\n", if last { "└─" } else { "├─" }, lines.next().unwrap_or_default()));
        for line in lines {
            text.push_str(&format!("{}  {line}\n", if last { " " } else { "│" }));
        }
    }
    for statement in view.statements.iter().flatten() {
        text.push_str(&format!("\n  -- {}\n{}\n", statement.purpose, indent(&statement.sql)));
    }
    text
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
    for index in &relation.missing_indexes {
        line.push_str(&format!("\n        missing on the source: {index}"));
    }
    line
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
