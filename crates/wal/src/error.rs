//! What can go wrong on a replication connection.

use lockstep_connect::{ConnectError, Endpoint, ErrorClass, is_starting_or_stopping, refused_by_pooler};

/// An error of the replication connection.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The server could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server reported an error.
    #[error("{message} (SQLSTATE {sqlstate}){}", hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default())]
    Server {
        /// The five-character code.
        sqlstate: String,
        /// The primary message.
        message: String,
        /// The server's hint.
        hint: Option<String>,
    },
    /// The connection broke.
    #[error("the replication connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The server sent something the protocol does not allow here.
    #[error("unexpected reply on the replication connection: {0}")]
    Protocol(String),
    /// The server asks for an authentication method that is not supported.
    #[error("authentication failed: {0}")]
    Authentication(String),
}

impl ReplicationError {
    /// Whether a later attempt may succeed by itself.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Connect(error) => error.class(),
            // 55006: the slot is still held by the walsender of a connection that has just gone.
            Self::Server { sqlstate, .. } => match sqlstate.get(..2) {
                Some("08" | "53" | "57" | "58") => ErrorClass::Transient,
                Some("55") if sqlstate == "55006" => ErrorClass::Transient,
                Some(_) | None => ErrorClass::Definite,
            },
            Self::Io(_) => ErrorClass::Transient,
            Self::Protocol(_) | Self::Authentication(_) => ErrorClass::Definite,
        }
    }

    /// Whether we were not let in (SQLSTATE class 28, invalid authorization), or could not come as far.
    pub fn refuses_login(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Authentication(_) => true,
            Self::Server { sqlstate, .. } => sqlstate.starts_with("28"),
            Self::Io(_) | Self::Protocol(_) => false,
        }
    }

    /// Whether another host of the list may do where this one does not.
    pub(crate) fn tries_next(&self) -> bool {
        match self {
            Self::Connect(error) => error.tries_next(),
            Self::Server { sqlstate, .. } => is_starting_or_stopping(sqlstate),
            Self::Io(_) => true,
            Self::Protocol(_) | Self::Authentication(_) => false,
        }
    }

    /// The same, or that a pooler refuses what PostgreSQL would take.
    pub(crate) fn of_pooler(self, endpoint: &Endpoint) -> Self {
        match self {
            Self::Server { sqlstate, message, hint } => match refused_by_pooler(&sqlstate, &message) {
                Some(differing) => ConnectError::Pooled { endpoint: endpoint.to_string(), differing }.into(),
                None => Self::Server { sqlstate, message, hint },
            },
            other @ (Self::Connect(_) | Self::Io(_) | Self::Protocol(_) | Self::Authentication(_)) => other,
        }
    }

    /// Whether a text could not be converted to the encoding that was asked for.
    pub fn is_about_encoding(&self) -> bool {
        self.sqlstate().is_some_and(lockstep_connect::is_about_encoding)
    }

    /// The server's SQLSTATE, where the server reported one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { sqlstate, .. } => Some(sqlstate),
            Self::Connect(_) | Self::Io(_) | Self::Protocol(_) | Self::Authentication(_) => None,
        }
    }
}
