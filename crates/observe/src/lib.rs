//! What a projector is and how it fares, for whoever looks: the page, probes, metrics, `lockstep status`.
//!
//! ```text
//!   supervise ──tells──► Observed, Health ──asked by──► serve (page, /readyz), the log, lockstep.installation
//! ```

mod health;
mod observed;

pub use health::{Health, Verdict, note_trouble};
pub use observed::{Instance, Look, Observed, Slot};
