//! PostgreSQL's replication protocol, and no more than a consumer of row identities needs.
//!
//! ```text
//!   walsender ──CopyBoth──► ReplicationStream ──Frame──► pgoutput::decode ──Message<'_>──► capture
//!             ◄─status update──┘
//! ```
//!
//! [`pgoutput`] is a pure decoder over borrowed bytes; [`connection`] does the I/O. Nothing here knows which relations matter or
//! why. tokio-postgres has no `CopyBoth` mode, which is the reason this crate exists.

pub mod connection;
mod error;
mod lsn;
pub mod pgoutput;

pub use connection::{APPLICATION_NAME, CreatedSlot, Frame, ReplicationConnection, ReplicationStream, SystemIdentity};
pub use error::ReplicationError;
pub use lsn::Lsn;
