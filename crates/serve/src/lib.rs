//! Everything over HTTP: the read API with the feed of changes, and what operators look at.
//!
//! ```text
//!   a client's request ──listener.rs──► api/mod.rs: router, time-out, metrics ──► api/products.rs, projections.rs, changes.rs: parameters
//!        ──► lockstep_read: projection, view or tables answer ──► api/respond.rs: body and headers; api/problem.rs, if anything is wrong
//!   an operator's      ──listener.rs──► admin.rs: /metrics, /healthz, /readyz; page/
//! ```

pub mod admin;
pub mod api;
mod listener;
mod metrics;
mod page;
mod refusal;

pub use metrics::start_metrics;
