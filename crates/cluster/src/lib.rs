//! Private PostgreSQL clusters, for the demonstration and for tests.
//!
//! [`Binaries`] finds an installation, [`Cluster`] makes a data directory, starts the server on a Unix socket and a free loopback
//! port, and removes everything when dropped. PostgreSQL refuses to run as root, so a root caller runs it as an unprivileged user.

mod binaries;
mod cluster;
mod error;
mod unprivileged;

pub use binaries::Binaries;
pub use cluster::{Cluster, ClusterOptions};
pub use error::ClusterError;
