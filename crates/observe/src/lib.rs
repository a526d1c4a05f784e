//! What a projector is and how it fares, for whoever looks: the page, probes, metrics, `lockstep status`.
//!
//! ```text
//!   supervise ──tells──► Observed, Health ──asked by──► serve: the page, /readyz
//!                                 └──write──► the log, gauges, lockstep.installation (for `lockstep status`)
//! ```

mod health;
mod observed;

pub use health::{Health, Verdict, note_trouble};
pub use observed::{Instance, Look, Observed, Slot};
