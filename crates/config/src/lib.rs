//! The configuration, in two steps, and messages that point into it.
//!
//! ```text
//!   file ──raw.rs──► keys with their places ──file.rs, projection.rs, api.rs──► model.rs: checked and resolved ([`Config`])
//!                                               └──► [`Diagnostic`]: what is wrong, where (a caret), what to do
//! ```

mod api;
mod connection;
mod cube;
mod diagnostic;
mod file;
mod model;
mod nearest;
mod projection;
mod raw;
mod reader;
#[cfg(test)]
mod tests;

pub use cube::is_cube;
pub use diagnostic::Diagnostic;
pub use model::{ApiConfig, BackstopConfig, Config, DEFAULT_GROUP, GroupConfig, Listen, ProjectionConfig, WarmConfig};
pub use nearest::{did_you_mean, nearest};
pub use reader::Environment;
