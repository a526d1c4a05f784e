//! The binary's parts: configuration, command line, preflight, supervisor, metrics, HTTP, demonstration.
//!
//! ```text
//!   config ──► preflight (analyse, plan, check) ──► setup (schema, publication, slot, tables) ──► supervisor
//!                                                                                        ├─ capture (one stream)
//!                                                                                        ├─ groups  (one task each)
//!                                                                                        └─ monitor, HTTP, progress
//! ```
//!
//! Only this crate knows TOML, HTTP and the command line.

mod api;
mod backstop;
mod boundaries;
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod diagnostic;
mod drift;
mod followed;
mod giving_way;
mod health;
mod http;
mod identities;
mod lease;
mod listener;
mod metadata;
mod monitor;
mod nearest;
mod observed;
mod page;
pub mod preflight;
mod progress;
mod refusal;
mod reload;
mod requests;
mod setup;
mod slot;
mod standby_names;
mod standing;
pub mod supervisor;
pub mod telemetry;
mod types;
mod upkeep;
mod verification;
mod versions;
mod watch;

/// How the program ends. The numbers are a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Good = 0,
    /// It did not work.
    Failure = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The time ran out.
    TimedOut = 3,
}
