//! From a SELECT and catalog facts to a maintenance plan.
//!
//! ```text
//!   facts::Query ──► syntax (parse) ──► shape (occurrences, equalities) ──► lookup (root, paths) ──► Plan
//!                                          │ Obstacle                          │ no root              │
//!                                          └──────────────► whole ◄────────────┘            sql (statements)
//! ```
//!
//! Pure: no I/O, no clock, and it cannot fail at run time. What the planner does not understand is never guessed at; it becomes a
//! *whole* projection with the reason, so every SELECT works.

mod aggregate;
pub mod facts;
mod lookup;
mod plan;
mod planner;
pub mod quote;
mod shape;
pub mod sql;
mod syntax;
#[cfg(test)]
mod tests;
mod trace;

pub use plan::{AggregatePlan, Maintenance, Plan, PlanError, RelationPlan, RelationRole, Role, Root, RowPlan, WholePlan};
pub use planner::{plan, plan_whole};
