//! Errors of a batch: what failed, on which side, for which projection, and what to do about it.

use lockstep_capture::CaptureError;
use lockstep_connect::{ConnectError, ErrorClass, classify, describe, public_message};

use tokio_postgres::error::SqlState;

use crate::quarantine::{is_about_data, is_clash};

/// Which database an error came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The database that is followed.
    Source,
    /// The database that holds the read models.
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why a batch did not commit.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A session could not be opened.
    #[error("{side}: {error}")]
    Connect {
        /// Where.
        side: Side,
        /// Why.
        error: ConnectError,
    },
    /// Sessions may not write: somebody has put a brake on.
    #[error("{side}: {reason}")]
    ReadOnly {
        /// Where.
        side: Side,
        /// By what.
        reason: String,
    },
    /// A statement failed.
    #[error("{side}: {}", describe(error))]
    Sql {
        /// Where.
        side: Side,
        /// PostgreSQL's error.
        error: tokio_postgres::Error,
        /// The projection whose statement it was; `None` for the batch's own statements.
        projection: Option<usize>,
    },
    /// A trace failed on a value that the query itself guards against: it reads rows that the query filters out.
    #[error("source: the trace failed: {}", describe(error))]
    Trace {
        /// PostgreSQL's error.
        error: tokio_postgres::Error,
        /// Whose.
        projection: usize,
    },
    /// The defining query returned several rows with one key.
    #[error("the key is not unique: {duplicates} keys have more than one row")]
    DuplicateKey {
        /// Whose.
        projection: usize,
        /// How many keys.
        duplicates: i64,
    },
    /// More keys fail than are set aside one by one.
    #[error("more than {keys_max} keys fail{}", sqlstate.as_ref().map(|code| format!(", the last with SQLSTATE {code}")).unwrap_or_default())]
    TooManyFail {
        /// Whose.
        projection: usize,
        /// How many may.
        keys_max: usize,
        /// Of the last one.
        sqlstate: Option<String>,
    },
    /// The fence failed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Sessions that load pages of a build would have waited for a lock that may wait for the batch: the batch loads those pages itself.
    #[error("the sessions that load pages gave way to a lock")]
    LoadGaveWay,
    /// Another instance has taken over.
    #[error("another instance has taken this target over")]
    Fenced,
    /// An observer refused the batch (tests and audits).
    #[error("the batch was refused: {0}")]
    Refused(String),
}

/// What has not been tried yet with a projection whose batch failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untried {
    pub(crate) delete_first: bool,
    pub(crate) one_by_one: bool,
}

/// What the group does about a failed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Try again at once: the next batch does it otherwise.
    Again,
    /// Try again after a pause; reconnect first if the sessions are gone.
    Retry,
    /// Write this projection's next batch by deleting first: an index refused some of its rows.
    DeleteFirst(usize),
    /// Tell the keys of this projection that fail apart from those that do not.
    OneByOne(usize),
    /// Refresh everything of this projection instead of tracing.
    SkipTraces(usize),
    /// Set this projection aside and go on with the others.
    Fault(usize),
    /// Stop: nothing that we can do.
    Stop,
}

impl BatchError {
    /// What to do. `untried` tells what has not been tried yet with a projection.
    pub(crate) fn remedy(&self, untried: impl Fn(usize) -> Untried) -> Remedy {
        match self {
            Self::Sql { error, projection, .. } => match (classify(error), projection) {
                (ErrorClass::Transient, _) | (ErrorClass::Definite, None) => Remedy::Retry,
                (ErrorClass::Definite, Some(projection)) => {
                    let untried = untried(*projection);
                    if is_clash(error) && untried.delete_first {
                        Remedy::DeleteFirst(*projection)
                    } else if is_about_data(error) && untried.one_by_one {
                        Remedy::OneByOne(*projection)
                    } else {
                        Remedy::Fault(*projection)
                    }
                }
            },
            Self::Trace { projection, .. } => Remedy::SkipTraces(*projection),
            Self::LoadGaveWay => Remedy::Again,
            // A unique index guards a declared key, mostly: then it is told which rows have the same.
            Self::DuplicateKey { projection, .. } if untried(*projection).delete_first => Remedy::DeleteFirst(*projection),
            Self::DuplicateKey { projection, .. } | Self::TooManyFail { projection, .. } => Remedy::Fault(*projection),
            // Even a definite refusal of a connection (a password changed): serve what is there and keep trying until it is mended.
            Self::Connect { .. } if !self.is_of_another_server() => Remedy::Retry,
            Self::ReadOnly { .. }
            | Self::Capture(CaptureError::TimedOut(_) | CaptureError::Replication(_) | CaptureError::Sql(_)) => Remedy::Retry,
            // Of another server: the stream comes from the one that was there before, and both have to be of one again.
            Self::Connect { .. } | Self::Capture(CaptureError::Ended(_)) | Self::Fenced | Self::Refused(_) => Remedy::Stop,
        }
    }

    /// Whether the source's address leads to another server than the stream comes from.
    pub fn is_of_another_server(&self) -> bool {
        matches!(self, Self::Connect { error: ConnectError::AnotherServer { .. }, .. })
    }

    /// Whether a statement has waited for a lock for as long as it may.
    pub(crate) fn is_about_a_lock(&self) -> bool {
        matches!(self, Self::Sql { error, .. } if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
    }

    /// Whether something of that name was made at the same time: a unique index of a catalogue refuses it.
    pub(crate) fn is_about_a_name(&self) -> bool {
        let Self::Sql { error, .. } = self else { return false };
        let clash =
            |db: &tokio_postgres::error::DbError| db.code() == &SqlState::UNIQUE_VIOLATION && db.schema() == Some("pg_catalog");
        error.as_db_error().is_some_and(clash)
    }

    /// Whether a limit was met (SQLSTATE class 53): one that has been raised for the role since holds in new sessions only.
    pub(crate) fn is_about_resources(&self) -> bool {
        matches!(self, Self::Sql { error, .. } if error.code().is_some_and(|code| code.code().starts_with("53")))
    }

    /// Whether a statement was refused because its transaction may not write (25006, `read_only_sql_transaction`). A session keeps the
    /// setting with which it began, so that only a new one can tell when that is over.
    pub(crate) fn is_refused_as_read_only(&self) -> bool {
        matches!(self, Self::Sql { error, .. } if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION))
    }

    /// SQLSTATE, message and hint for the record of a fault.
    pub(crate) fn record(&self) -> (Option<String>, String, Option<String>) {
        match self {
            Self::Sql { error, side, .. } => match error.as_db_error() {
                Some(db) => (
                    Some(db.code().code().to_owned()),
                    format!("{side}: {}", public_message(db)),
                    db.hint().map(str::to_owned).or_else(|| hint_for(db.code().code()).map(str::to_owned)),
                ),
                None => (None, self.to_string(), None),
            },
            Self::DuplicateKey { .. } => (
                None,
                self.to_string(),
                Some("run lockstep check to see a duplicate; then add key columns, or leave the key out".to_owned()),
            ),
            Self::TooManyFail { sqlstate, .. } => (
                sqlstate.clone(),
                self.to_string(),
                Some("run the query to see why; lockstep quarantine list shows the keys that failed before".to_owned()),
            ),
            Self::Connect { .. }
            | Self::ReadOnly { .. }
            | Self::Trace { .. }
            | Self::Capture(_)
            | Self::LoadGaveWay
            | Self::Fenced
            | Self::Refused(_) => (None, self.to_string(), None),
        }
    }

    /// `transient` or `definite`, the label of the error metric.
    pub(crate) fn class_label(&self) -> &'static str {
        match self.remedy(|_| Untried { delete_first: true, one_by_one: true }) {
            Remedy::Again | Remedy::Retry => "transient",
            Remedy::DeleteFirst(_) => "unique_clash",
            Remedy::OneByOne(_) => "data",
            Remedy::SkipTraces(_) => "trace",
            Remedy::Fault(_) => "definite",
            Remedy::Stop => "fatal",
        }
    }
}

/// What an operator can do about the usual faults.
fn hint_for(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "42703" | "42P01" => "the source's schema changed: adapt the query, then restart lockstep",
        "42501" => "grant the projector's role what the message names (lockstep check lists the grants)",
        "23505" => "a unique index on the read model refuses a row: correct the data or drop the index",
        _ if sqlstate.starts_with("22") => {
            "a value does not fit the query's expressions: correct the row, or guard the expression"
        }
        _ => return None,
    })
}
