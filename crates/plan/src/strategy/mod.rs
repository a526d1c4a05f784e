//! How each construct is maintained, one a file; `decision` asks them in order.

mod accumulators;
mod aggregation;
mod branches;
pub mod chains;
mod composition;
mod decision;
mod decomposition;
mod distinct;
mod grouping;
mod hierarchy;
mod limits;
mod paths;
mod ranges;
mod top;
mod traces;
mod windows;

pub use accumulators::accumulate;
pub use composition::compositions;
pub use decision::{at_time, plan, plan_whole};
pub use decomposition::{Decomposition, decompose};
