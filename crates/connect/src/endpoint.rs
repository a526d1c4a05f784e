//! Where a server is, and who it is.

use std::path::PathBuf;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address and a port.
    Tcp(String, u16),
    /// The socket file of a Unix-domain socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// A server and the history that it is on: what sessions of two kinds, or of two moments, must have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Identifies the cluster through its life.
    pub system_identifier: String,
    /// Grows with every failover or point-in-time recovery.
    pub timeline: u32,
}
