//! The program: its command line, its commands, the demonstration. What it does is in the crates below.
//!
//! ```text
//!   cli.rs ──► config ──► commands/, one a file            (look, ask, tidy)
//!                    └──► run.rs: preflight ──► serve (HTTP) + supervise (the projector)
//! ```

pub mod cli;
pub mod commands;
pub mod demo;
pub mod logging;
pub mod run;
mod signals;

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
