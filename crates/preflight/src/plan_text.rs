//! A plan as a tree for people.

use std::path::Path;

use lockstep_config::Diagnostic;

use crate::bytes::shown;
use crate::plan_view::{PlanView, RelationView, StateView};

/// Every projection, and below it the blocks that it is made of.
pub fn plan_trees(views: &[PlanView<'_>], colours: bool) -> String {
    let mut text = String::new();
    for view in views.iter().filter(|view| view.part_of.is_none()) {
        tree(view, views, (0, colours), &mut text);
    }
    text
}

fn tree(view: &PlanView<'_>, all: &[PlanView<'_>], (depth, colours): (usize, bool), text: &mut String) {
    let margin = "    ".repeat(depth);
    for line in plan_text(view, colours).lines() {
        text.push_str(format!("{margin}{line}").trim_end());
        text.push('\n');
    }
    text.push('\n');
    for block in all.iter().filter(|block| block.part_of == Some(view.name)) {
        tree(block, all, (depth + 1, colours), text);
    }
}

fn plan_text(view: &PlanView<'_>, colours: bool) -> String {
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
        if let Some(hint) = view.hint {
            note = note.help(hint);
        }
        text.push_str(&format!("{}\n", note.render(colours)));
    }
    let branches = branches(view);
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

fn branches(view: &PlanView<'_>) -> Vec<String> {
    let key = if view.key.is_empty() { "none".to_owned() } else { view.key.join(", ") };
    let mut branches: Vec<String> = vec![format!("group {}, key {key}", view.group)];
    let size = size(view.rows, view.bytes, false).map(|size| format!("{size}; ")).unwrap_or_default();
    branches.push(format!("rows    {size}{}", view.identity));
    branches.extend(view.groups.iter().map(|groups| format!("groups  {groups}")));
    branches.extend(view.ties.iter().map(|tie| match tie.appended.as_slice() {
        [] => format!("open    {}: rows that tie decide values, and nothing can be appended to its ORDER BY", tie.construct),
        appended => format!("order   {}: with {} appended, so that it is determined", tie.construct, appended.join(", ")),
    }));
    branches.extend(view.unseen.iter().map(|unseen| format!("unseen  {unseen}; after a change there: lockstep repair")));
    let several = view.relations.iter().any(|relation| relation.branch > 1);
    for relation in &view.relations {
        branches.push(relation_lines(relation, several, view.reason.is_some()));
    }
    branches.extend(view.state.iter().map(state_line));
    let indexes = view.indexes.unwrap_or_default().lines();
    branches.extend(indexes.filter(|_| view.part_of.is_some()).map(|index| format!("index   {}", index.trim_end_matches(';'))));
    branches
}

fn state_line(state: &StateView<'_>) -> String {
    let size = size(state.rows, state.bytes, true).map(|size| format!("; {size}")).unwrap_or_default();
    format!("state   {} ({}): {}{size}", state.table, state.columns.join(", "), state.purpose)
}

fn relation_lines(relation: &RelationView<'_>, several: bool, whole: bool) -> String {
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
    line.push_str(&format!("\n        {}", relation.cost));
    for index in &relation.missing_indexes {
        line.push_str(&format!("\n        missing on the source: {index}"));
    }
    line
}

/// Rows and bytes; an estimate of rows is none to the row.
fn size(rows: Option<i64>, bytes: Option<i64>, estimated: bool) -> Option<String> {
    let about = if estimated { "about " } else { "" };
    let rows = rows.map(|rows| format!("{about}{rows} {}, ", if rows == 1 { "row" } else { "rows" })).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
    bytes.map(|bytes| format!("{rows}{}", shown(bytes as f64)))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
