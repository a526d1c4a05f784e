//! `lockstep check`.

use lockstep_config::Config;
use lockstep_preflight::{self as preflight, Depth, Finding, Severity, Statement, each_once};

use super::common;
use crate::{Exit, logging};

/// Shows every finding, or only the statements that they ask for; fails if one is an error.
///
/// # Errors
/// The JSON cannot be written. What is wrong with servers and queries is a finding, told with exit status 1.
pub async fn check(config: &Config, sql: bool, json: bool) -> anyhow::Result<Exit> {
    let preflight = preflight::run(config, Depth::Full).await;
    let exit = if preflight.passed() { Exit::Good } else { Exit::Failure };
    if json {
        common::print_json(&preflight.findings)?;
        return Ok(exit);
    }
    let told = each_once(&preflight.findings);
    if sql {
        print!("{}", script(&told, config));
        return Ok(exit);
    }
    for finding in &told {
        match finding.severity {
            Severity::Ok => println!("ok       {}: {}", finding.subject, finding.what()),
            Severity::Warning => println!("warning  {}: {}", finding.subject, finding.what()),
            // With their place and what to do about them, below.
            Severity::Error => continue,
        }
        // What can be pasted stands at the beginning of its lines.
        let indent = if finding.statements.is_empty() { "         " } else { "" };
        for line in &finding.lines {
            println!("{indent}{line}");
        }
    }
    for finding in told.iter().filter(|finding| finding.severity == Severity::Error) {
        eprintln!("\n{}", finding.render(logging::colours()));
    }
    if preflight.passed() {
        println!("\nReady: lockstep run");
    } else if told.iter().flat_map(|finding| &finding.statements).any(|statement| !statement.optional) {
        eprintln!("\nAll statements as one script, by the role that runs them: lockstep check --sql");
    }
    Ok(exit)
}

/// Every statement once, by the role that may run it, after the findings that ask for it; what no statement mends stands at the end.
fn script(told: &[Finding], config: &Config) -> String {
    let mut statements: Vec<(&Statement, Vec<&Finding>)> = Vec::new();
    for finding in told.iter().filter(|finding| finding.severity != Severity::Ok) {
        for statement in &finding.statements {
            match statements.iter_mut().find(|(other, _)| other.sql == statement.sql && other.by == statement.by) {
                Some((_, reasons)) => reasons.push(finding),
                None => statements.push((statement, vec![finding])),
            }
        }
    }
    // Roles and settings first: what is granted needs them.
    statements.sort_by_key(|(statement, _)| statement.by.clone());
    let mut script =
        format!("-- What lockstep check asks for; check again when it has run. The source is {}", config.source.summary());
    if let Some(target) = &config.target {
        script.push_str(&format!(", the target {}", target.summary()));
    }
    script.push_str(".\n");
    let (mut role, mut explained) = (String::new(), Vec::new());
    for (statement, reasons) in &statements {
        let who = statement.by.label(config.target.is_some());
        if who != role {
            script.push_str(&format!("\n-- === {who} ===\n"));
            role = who;
        }
        for finding in reasons.iter().filter(|finding| !explained.contains(&(&finding.subject, finding.what()))) {
            script.push_str(&format!("-- {}: {}\n", finding.subject, one_line(finding.what())));
        }
        explained.extend(reasons.iter().map(|finding| (&finding.subject, finding.what())));
        script.push_str(&format!("{}\n", statement.pasted()));
    }
    let rest = without_statement(told);
    match (statements.is_empty(), rest.is_empty()) {
        (true, true) => script.push_str("-- Nothing is to be run.\n"),
        (_, true) => {}
        (_, false) => script.push_str(&format!("\n-- What no statement mends:\n{rest}")),
    }
    script
}

fn without_statement(told: &[Finding]) -> String {
    let errors = told.iter().filter(|finding| finding.severity == Severity::Error && finding.statements.is_empty());
    errors
        .map(|finding| {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            format!("--   {}: {}; {}\n", finding.subject, one_line(finding.what()), one_line(remedy))
        })
        .collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}
