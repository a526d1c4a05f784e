//! What a read can end in.

/// A request that was not answered with rows. Messages are for clients: they tell nothing of servers and statements.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The request is wrong.
    #[error("{detail}")]
    BadRequest {
        /// The parameter, as the client wrote it.
        parameter: String,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no such projection.
    #[error("there is no projection {0}")]
    NoSuchProjection(String),
    /// The projection does not contain the position that was asked for.
    #[error("the position is not contained yet; come again")]
    NotYet,
    /// The projection is set aside, and no other source can answer.
    #[error("the projection is set aside until its query or its data is mended; lockstep status says why")]
    SetAside,
    /// No source can answer.
    #[error("nothing can answer at the moment")]
    Unavailable,
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
}

impl ReadError {
    pub(crate) fn bad(parameter: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::BadRequest { parameter: parameter.into(), detail: detail.into() }
    }
}

/// Why a source could not answer; then the next one is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceFault {
    /// Its table or a column of it is not there.
    Missing,
    /// It has never been built or refreshed.
    NotBuilt,
    /// It is set aside.
    SetAside,
    /// It was current too long ago.
    Stale,
    /// The server cannot be reached.
    Unreachable,
    /// No connection, or no slot for a costly query, became free in time.
    Busy,
    /// The statement was cancelled because it took too long.
    TimedOut,
    /// PostgreSQL refused the statement.
    Refused,
}

impl SourceFault {
    /// The value of the label `error_type`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotBuilt => "not_built",
            Self::SetAside => "set_aside",
            Self::Stale => "stale",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::TimedOut => "timeout",
            Self::Refused => "refused",
        }
    }

    /// By what PostgreSQL said.
    pub(crate) fn of(error: &tokio_postgres::Error) -> Self {
        match lockstep_connect::sqlstate(error).map(tokio_postgres::error::SqlState::code) {
            Some("42P01" | "42703" | "3F000") => Self::Missing,
            Some("55000") => Self::NotBuilt,
            Some("57014") => Self::TimedOut,
            Some(code) if code.starts_with("08") || code.starts_with("57") => Self::Unreachable,
            Some(_) => Self::Refused,
            None => Self::Unreachable,
        }
    }
}
