//! `lockstep check`.

use crate::config::Config;
use crate::preflight::{self, Depth, Severity};
use crate::{Exit, telemetry};

/// Shows every finding; fails if one is an error.
///
/// # Errors
/// Standard output cannot be written.
pub async fn check(config: &Config, json: bool) -> anyhow::Result<Exit> {
    let preflight = preflight::run(config, Depth::Full).await;
    let exit = if preflight.passed() { Exit::Good } else { Exit::Failure };
    if json {
        super::print_json(&preflight.findings)?;
        return Ok(exit);
    }
    for finding in &preflight.findings {
        let mark = match finding.severity {
            Severity::Ok => "ok     ",
            Severity::Warning => "warning",
            Severity::Error => "error  ",
        };
        println!("{mark}  {}: {}", finding.subject, finding.message);
        if let (Severity::Warning, Some(remedy)) = (finding.severity, &finding.remedy) {
            println!("         {remedy}");
        }
    }
    let errors = preflight.errors(telemetry::colours());
    for error in &errors {
        eprintln!("\n{error}");
    }
    if errors.is_empty() {
        println!("\nReady: lockstep run");
    }
    Ok(exit)
}
