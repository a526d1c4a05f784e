//! Sets up, leads, watches and sets up again: what a projector does from its start to its end.
//!
//! ```text
//!   preflight ──► lease.rs: leads ──► metadata/, setup/: schema, types, tables, publication, slot ──► supervisor/: a round
//!                                                                                   ├─ capture (one stream)
//!                                                                                   ├─ groups (one task each)
//!                                                                                   └─ what looks after them:
//!      requests.rs ─► request_handler.rs: what commands ask for      catalogs.rs: whether the source is what it was
//!      verification/, schedule.rs: by schedule or request    versions/: new definitions take their places
//!      monitor.rs, progress.rs: told to those who look       upkeep.rs: what has been kept for long enough goes
//!   another schema, version, configuration (reload.rs) ──► supervisor/renew.rs: set up again in place, while what is the same runs on
//!   a round ends ──► supervisor/: why, and how the next one begins (setbacks.rs), after a pause
//! ```

mod admission;
mod catalogs;
mod hooks;
mod lease;
mod metadata;
mod monitor;
mod progress;
mod reload;
mod request_handler;
pub mod requests;
mod schedule;
mod setup;
mod supervisor;
mod upkeep;
mod verification;
mod versions;

pub use admission::may_set_aside;
pub use hooks::Hooks;
pub use lease::lock_out_others;
pub use metadata::migrate;
pub use reload::{Reading, Reload};
pub use setup::{NOT_CONFIGURED, drop_slot};
pub use supervisor::{Given, supervise};
pub use verification::{Wish, shown};
