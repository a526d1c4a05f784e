//! What the stages hand to each other: types, and what can be read off them. No algorithm is here.

pub(crate) mod accumulators;
pub(crate) mod agreement;
pub(crate) mod contributions;
pub mod facts;
pub(crate) mod index;
pub mod names;
pub(crate) mod obstacle;
pub(crate) mod plan;
pub mod quote;
pub(crate) mod row_key;
pub(crate) mod state;
pub(crate) mod trace;
