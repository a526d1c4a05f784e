//! How Lockstep reaches a PostgreSQL server.
//!
//! ```text
//!   URL ──┐
//!   PG… environment ──► Settings ──► Session    (SQL, tokio-postgres)
//!   ~/.pgpass ──┘          └───────► Transport  (raw bytes, for the replication connection)
//! ```
//!
//! Both ends share one resolution of host, user, password and TLS, so that what `lockstep check`
//! reaches is what `lockstep run` streams from. Every session pins the settings that change how
//! PostgreSQL prints or computes values ([`PINNED_SETTINGS`]), and reads them back.

mod certificates;
mod conninfo;
mod endpoint;
mod error;
mod establish;
mod host;
mod hosts;
mod parameters;
mod passfile;
mod pinned;
mod read_only;
mod service;
mod session;
mod settings;
mod settings_error;
mod text;
mod tls;
mod transport;
mod turns;

pub use conninfo::{encode, is_url};
pub use endpoint::{Endpoint, ServerIdentity};
pub use error::{
    ConnectError, ErrorClass, classify, describe, is_about_encoding, is_starting_or_stopping, public_message, refused_by_pooler,
    sqlstate,
};
pub use establish::{LoggedIn, Login, establish};
pub use hosts::Candidate;
pub use parameters::Environment;
pub use pinned::{FOLLOWED_SETTINGS, PINNED_SETTINGS, Pinned, ReadBack, Settled, pinning_statement};
pub use read_only::{ReadOnly, read_only_by_default};
pub use session::Session;
pub use settings::{Binding, Settings};
pub use settings_error::SettingsError;
pub use text::{Repertoire, SQL_ASCII, Text, TextRef};
pub use tls::TlsMode;
pub use transport::{Stream, Transport};
pub use turns::{LockTurns, is_about_locks};
