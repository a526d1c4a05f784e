//! The commands, one a file.

mod adopt;
mod check;
pub(crate) mod common;
mod init;
mod new_slot;
mod plan;
mod quarantine;
mod rebuild;
mod serve;
mod stall;
mod status;
mod teardown;
mod verify;
mod wait;
mod within;

pub use adopt::adopt;
pub use check::check;
pub use init::init;
pub use new_slot::new_slot;
pub use plan::plan;
pub use quarantine::{quarantine_list, quarantine_retry};
pub use rebuild::rebuild;
pub use serve::serve;
pub use status::status;
pub use teardown::teardown;
pub use verify::{repair, verify};
pub use wait::wait;
pub use within::within;
