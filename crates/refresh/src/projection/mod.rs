//! A projection at run time: its plan, its statements, where it stands.

mod phase;
mod state;
mod statements;

pub use phase::Progress;
pub(crate) use phase::{BuildPosition, Load, Phase};
pub(crate) use state::{Attempts, FaultRecord, Statistics, Tracing, Writing};
pub use state::{Configured, Projection};
pub(crate) use statements::Statements;
