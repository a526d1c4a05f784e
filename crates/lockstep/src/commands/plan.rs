//! `lockstep plan`: how each projection is maintained, as a tree for people and as JSON for programs.

use lockstep_config::Config;
use lockstep_preflight::{self as preflight, Depth, PlanView, Planned, plan_trees, sizes, view};

use super::common;
use crate::{Exit, logging};

/// Shows how each projection, or one, is maintained, and how large what it keeps is by now.
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
    let sizes = sizes(config, &planned).await;
    let views: Vec<PlanView<'_>> = planned.iter().map(|planned| view(planned, with_sql, &sizes)).collect();
    if json {
        common::print_json(&views)?;
    } else {
        print!("{}", plan_trees(&views, logging::colours()));
    }
    for error in preflight.errors(logging::colours()) {
        eprintln!("{error}\n");
    }
    Ok(if preflight.passed() { Exit::Good } else { Exit::Failure })
}
