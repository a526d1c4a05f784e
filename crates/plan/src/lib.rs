//! From a SELECT and catalog facts to a maintenance plan.
//!
//! ```text
//!   facts::Query ─► syntax ─► normalise ─► resolve ──────────► reach ─────────► branch ────► planner ─► Plan
//!                  (parse)   (WITH, views,  (occurrences,      (root, lookups,  (restricted            │
//!                             UNION, full    equalities)        links)           queries, traces)     sql
//!                             joins)                                                             (statements)
//!                                 └───────────────┴── Obstacle ──┴──────────────► whole
//! ```
//!
//! Pure: no I/O, no clock, and it cannot fail at run time. What the planner does not understand is never guessed at; it becomes a
//! *whole* projection with the reason, so every SELECT works.

mod accumulate;
mod aggregate;
mod branch;
pub mod chain;
mod decompose;
pub mod facts;
mod grouped;
mod indexes;
mod locking;
mod named;
pub mod names;
mod normalise;
mod obstacle;
mod order;
mod plan;
mod planner;
pub mod quote;
mod reach;
mod resolve;
pub mod sql;
mod syntax;
#[cfg(test)]
mod tests;
mod trace;
mod unnamed;

pub use accumulate::{Accumulators, Input, Sum, Values, accumulate};
pub use decompose::{Decomposition, decompose};
pub use indexes::{check_indexes, index_names, indexes_for};
pub use locking::{locking_clauses, place_of_table};
pub use named::tables_named;
pub use order::{Settled, Tie, settle};
pub use plan::{
    Branch, Clock, GroupForm, GroupedPlan, LinkTrace, Maintenance, Plan, PlanError, RelationRole, Role, Root, Trace, WholePlan,
};
pub use planner::{at_time, plan, plan_whole};
pub use unnamed::unnamed_columns;
