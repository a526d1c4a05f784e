//! Everything that must be right before anything is changed: servers, privileges, tables, queries. `lockstep check` shows it;
//! `lockstep run` insists on it.
//!
//! ```text
//!   configuration ──► source.rs: can it be streamed from ──► queries.rs, chain.rs: plans ──► publication.rs, slot.rs, settings.rs …
//!                 ──► target.rs: privileges, types, encodings, limits; ownership.rs, standing/: whose the slot is
//!                 ──► [`Preflight`]: findings with remedies, and what to set up
//! ```

mod attribution;
mod block_indexes;
mod bytes;
mod chain;
mod cube_size;
mod encodings;
mod finding;
mod foreign_publications;
mod limits;
pub mod materialized_views;
mod ownership;
mod plan_sizes;
mod plan_text;
mod plan_view;
mod plan_words;
mod privileges;
mod publication;
mod queries;
mod query_errors;
mod remedy;
mod report;
mod settings;
mod shared;
mod slot;
mod source;
mod stand_ins;
pub mod standby_names;
pub mod standing;
mod state_size;
mod target;
mod types;
mod whole_rows;

use lockstep_config::Config;
use lockstep_refresh::analysis::{Dependencies, meanings};

pub use finding::{Finding, Severity, each_once};
pub use plan_sizes::{Sizes, sizes};
pub use plan_text::plan_trees;
pub use plan_view::{PlanView, RelationView, StateView, StatementView, plans, view};
pub use privileges::{Missing, of_relations};
pub use remedy::{By, Remedy, Side, Statement};
pub use report::{Depth, Planned, Preflight, Shared};
pub use types::{NeededType, missing as missing_types, needed as needed_types};

/// Looks at everything; changes nothing.
pub async fn run(config: &Config, depth: Depth) -> Preflight {
    let mut preflight = Preflight { two_databases: config.target.is_some(), ..Preflight::default() };
    let Some(source) = source::source(config, depth, &mut preflight).await else { return preflight };
    // Types are found by temporary views; slot, publication and the mark of whose they are may have to be written, too.
    if !settings::writable("source", &source, &mut preflight).await {
        return preflight;
    }
    queries::plan_all(config, &source, &mut preflight).await;
    preflight.track();
    match lockstep_capture::signatures(&source, &config.publication, &preflight.tracked, preflight.major).await {
        Ok(signatures) => preflight.signatures = signatures,
        Err(error) => preflight.error("source", lockstep_connect::describe(&error), "make the catalogs readable"),
    }
    let dependencies: Vec<&Dependencies> = preflight.planned.iter().map(|planned| &planned.dependencies).collect();
    match meanings(&source, &dependencies, preflight.major).await {
        Ok(found) => preflight.meanings = preflight.planned.iter().map(Planned::name).zip(found).collect(),
        Err(error) => preflight.error("source", lockstep_connect::describe(&error), "make the catalogs readable"),
    }
    if depth == Depth::Plans {
        return preflight;
    }
    settings::check(&source, &mut preflight).await;
    source::relations(&source, &mut preflight).await;
    source::identities(config, depth, &source, &mut preflight).await;
    whole_rows::look(depth, &source, &mut preflight).await;
    publication::look(config, &source, &mut preflight).await;
    source::reading(config, &mut preflight).await;
    let registered = target::look(config, &source, &mut preflight).await;
    if depth == Depth::Start {
        preflight.set_aside_what_cannot_be_followed(config);
    }
    queries::check_keys(&source, depth, &registered, &mut preflight).await;
    if depth == Depth::Full {
        state_size::look(&source, &mut preflight).await;
        cube_size::look(config, &source, &mut preflight).await;
    }
    preflight
}
