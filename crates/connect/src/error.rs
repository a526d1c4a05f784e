//! Connection errors, and the one classification of PostgreSQL errors that the whole project uses.

use std::fmt::Write as _;

use tokio_postgres::error::{Error, SqlState};

use crate::settings_error::SettingsError;

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
    /// The settings cannot be made: a file that they name has changed, or is gone.
    #[error("{0}")]
    Settings(SettingsError),
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
    /// The server asks for what we cannot give: a password that is not there, a method that is not known.
    #[error("authentication with {endpoint} failed: {cause}")]
    Authentication {
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
    /// A primary where a standby is asked for, or the other way round.
    #[error("{endpoint} is not the one: {missing}")]
    OfAnotherKind {
        /// Host and port that were tried.
        endpoint: String,
        /// What it is, and what is asked for.
        missing: &'static str,
    },
    /// Of several hosts none will do.
    #[error("none of the hosts will do: {}", attempts.join("; "))]
    NoHost {
        /// What was found, host by host.
        attempts: Vec<String>,
        /// Whether nothing changes that without anybody acting.
        definite: bool,
    },
    /// The host list leads to a server that is not the one whose stream is followed.
    #[error("{endpoint} is another server now: {found}, and not {expected}")]
    AnotherServer {
        /// Host and port that were tried.
        endpoint: String,
        /// Who it is.
        found: String,
        /// Who was expected.
        expected: String,
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
            Self::Unreachable { .. } | Self::OfAnotherKind { .. } | Self::AnotherServer { .. } => ErrorClass::Transient,
            Self::NoHost { definite, .. } => {
                if *definite {
                    ErrorClass::Definite
                } else {
                    ErrorClass::Transient
                }
            }
            Self::Settings(_) | Self::Tls { .. } | Self::Authentication { .. } | Self::Pooled { .. } => ErrorClass::Definite,
            Self::Refused { cause, .. } => classify(cause),
        }
    }

    /// Whether another host of the list may do where this one does not: it cannot be reached, starts up or shuts down, or is a standby.
    pub fn tries_next(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::OfAnotherKind { .. } => true,
            Self::Refused { cause, .. } => {
                cause.code().map_or_else(|| cause.is_closed(), |state| is_starting_or_stopping(state.code()))
            }
            Self::Settings(_)
            | Self::Tls { .. }
            | Self::Authentication { .. }
            | Self::NoHost { .. }
            | Self::AnotherServer { .. }
            | Self::Pooled { .. } => false,
        }
    }

    /// What to do about it, in general.
    pub fn remedy(&self) -> String {
        match self {
            Self::Settings(error) => error.help.clone().unwrap_or_else(|| crate::conninfo::EXPECTED.to_owned()),
            Self::Unreachable { .. } => "check host and port, and that the server accepts connections from here".to_owned(),
            Self::Tls { cause, .. } if cause.contains("does not offer TLS") => {
                "set ssl = on at the server, or sslmode=prefer (or disable) where the way to it is trusted".to_owned()
            }
            Self::Tls { .. } => "check sslmode, sslrootcert and sslcert".to_owned(),
            Self::Authentication { .. } => {
                "give the password in PGPASSWORD, in ~/.pgpass (PGPASSFILE), or in a password_file; it is read at every connection".to_owned()
            }
            Self::Refused { .. } => "check user, password, database and pg_hba.conf".to_owned(),
            Self::OfAnotherKind { .. } | Self::NoHost { .. } => {
                "check the hosts, and target_session_attrs (read-write for the primary of several)".to_owned()
            }
            Self::AnotherServer { .. } => "the stream follows to it by itself; check that no former primary still answers".to_owned(),
            Self::Pooled { .. } => "name the server's own address and port in the url, not the pooler's".to_owned(),
        }
    }
}

/// 22021 and 22P05: bytes that are no text in an encoding, a character that has no place in it.
pub fn is_about_encoding(sqlstate: &str) -> bool {
    matches!(sqlstate, "22021" | "22P05")
}

/// 57P01 to 57P03: shut down by an administrator, after a crash, not yet up.
pub fn is_starting_or_stopping(sqlstate: &str) -> bool {
    matches!(sqlstate, "57P01" | "57P02" | "57P03")
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
