//! Connection errors, and the one classification of PostgreSQL errors that the whole project uses.

use std::fmt::Write as _;

use tokio_postgres::error::{Error, SqlState};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The same statement may succeed later without anybody acting: the connection went away, the
    /// server restarts, a serialization failure, resources ran out. Retry with backoff.
    Transient,
    /// The same statement fails again until somebody acts: wrong SQL, wrong data, no privilege.
    Definite,
}

/// A server could not be reached or did not let us in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The TCP or Unix-socket connection failed.
    #[error("cannot reach PostgreSQL at {endpoint}: {cause}")]
    Unreachable {
        /// Host and port that were tried.
        endpoint: String,
        /// The operating system's word.
        cause: std::io::Error,
    },
    /// TLS is required and could not be set up.
    #[error("TLS with {endpoint} failed: {cause}")]
    Tls {
        /// Host and port that were tried.
        endpoint: String,
        /// What went wrong.
        cause: String,
    },
    /// The server answered, and refused.
    #[error("PostgreSQL at {endpoint} refused the connection: {}", describe(cause))]
    Refused {
        /// Host and port that were tried.
        endpoint: String,
        /// PostgreSQL's error.
        cause: Error,
    },
    /// The session is not the one that was asked for: a pooler drops start-up settings, refuses them, or hands out others' sessions.
    #[error(
        "the session at {endpoint} does not have the settings that were asked for{}: a connection pooler such as PgBouncer (session, \
         transaction or statement mode) is in between, and drops them; Lockstep needs sessions of its own, for settings, prepared \
         statements and locks",
        differing_in_words(differing)
    )]
    Pooled {
        /// Host and port that were tried.
        endpoint: String,
        /// What differs, in words.
        differing: Vec<String>,
    },
}

/// The first few, so that the message can be read.
fn differing_in_words(differing: &[String]) -> String {
    const SHOWN: usize = 3;
    match differing {
        [] => String::new(),
        [..] if differing.len() > SHOWN => format!(" ({}, and {} more)", differing[..SHOWN].join(", "), differing.len() - SHOWN),
        [..] => format!(" ({})", differing.join(", ")),
    }
}

impl ConnectError {
    /// Whether a later attempt may succeed by itself.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } => ErrorClass::Transient,
            Self::Tls { .. } | Self::Pooled { .. } => ErrorClass::Definite,
            Self::Refused { cause, .. } => classify(cause),
        }
    }
}

/// Whether a refusal of the start-up message is a pooler's: PostgreSQL knows `options` and `replication`, and says otherwise what it does
/// not know. Returns what [`ConnectError::Pooled`] is to say.
pub fn refused_by_pooler(sqlstate: &str, message: &str) -> Option<Vec<String>> {
    (sqlstate == "08P01" && message.contains("startup parameter")).then(|| vec![message.to_owned()])
}

/// The SQLSTATE of a server error, if the error came from the server.
pub fn sqlstate(error: &Error) -> Option<&SqlState> {
    error.code()
}

/// Sorts an error by what to do about it.
///
/// The classes are those of PostgreSQL's appendix A. An error without SQLSTATE is the connection's
/// own (closed, reset) and therefore transient.
pub fn classify(error: &Error) -> ErrorClass {
    let Some(state) = error.code() else {
        return ErrorClass::Transient;
    };
    match state.code().get(..2) {
        // 08 connection, 40 serialization or deadlock, 53 resources, 55 object in use or lock not
        // available, 57 operator intervention, 58 system error, 25 transaction state after one of these.
        Some("08" | "25" | "40" | "53" | "55" | "57" | "58") => ErrorClass::Transient,
        Some(_) | None => ErrorClass::Definite,
    }
}

/// PostgreSQL's message without row values. Data errors (class 22) and errors raised by users' functions (P0) quote them; whatever
/// stands between double quotes in those is replaced.
pub fn public_message(error: &tokio_postgres::error::DbError) -> String {
    if !error.code().code().starts_with("22") && !error.code().code().starts_with("P0") {
        return error.message().to_owned();
    }
    let text = error.message();
    match (text.find('"'), text.rfind('"')) {
        (Some(first), Some(last)) if first < last => format!("{}…{}", &text[..=first], &text[last..]),
        _ => text.to_owned(),
    }
}

/// One line for an error: PostgreSQL's message and hint, or the chain of causes.
///
/// The *detail* is left out on purpose: for data errors it contains row values, which are never logged.
pub fn describe(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", public_message(db), db.code().code());
        if let Some(hint) = db.hint() {
            let _ = write!(text, "; hint: {hint}");
        }
        return text;
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
