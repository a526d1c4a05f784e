//! From a SELECT and catalog facts to a maintenance plan, stage by stage. Each stage imports those before it, and the model.
//!
//! ```text
//!   model ◄── what the stages hand to each other: facts, plan, traces, accumulators, row keys, obstacles
//!
//!   syntax ─► normalise ─► resolve ──────► strategy ──────────────────────────► Plan ─► emit
//!   (parse,   (WITH, views, (occurrences,  (root and paths, branches, grouping,         (SQL; imports
//!    print,    full joins,   equalities,    accumulators, decomposition,                 the model alone)
//!    walk)     ties)         the time)      chains, decision)
//!                 └──────────────┴── Obstacle ──┴──────────► whole
//! ```
//!
//! Pure: no I/O, no clock, and it cannot fail at run time. What the planner does not understand is never guessed at; it becomes a
//! *whole* projection with the reason, so every SELECT works.

pub mod emit;
mod model;
mod normalise;
mod resolve;
mod strategy;
mod syntax;
#[cfg(test)]
mod tests;

pub use emit::{check_indexes, index_names, indexes_for};
pub use model::accumulators::{Accumulators, Input, Sum, Values};
pub use model::index::{Purpose, WantedIndex};
pub use model::plan::{Branch, Clock, FirstRows, GroupForm, GroupedPlan, Maintenance, Plan, PlanError, Root, WholePlan};
pub use model::row_key::RowKey;
pub use model::state::StateTable;
pub use model::trace::{LinkTrace, RelationRole, Role, Trace};
pub use model::{facts, names, quote};
pub use normalise::{Settled, Tie, settle};
pub use strategy::{Decomposition, accumulate, at_time, chains, compositions, decompose, plan, plan_whole};
pub use syntax::{locking_clauses, place_of_call, place_of_table, tables_named, unnamed_columns};
