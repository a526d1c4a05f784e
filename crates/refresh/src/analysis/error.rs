//! Why a query cannot be analysed.

use lockstep_connect::{ErrorClass, classify, describe};
use tokio_postgres::error::ErrorPosition;

/// A defining query cannot be analysed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AnalysisError {
    /// What is wrong, PostgreSQL's words where it found it.
    pub message: String,
    /// Where in the query, counted in characters from 0.
    pub position: Option<usize>,
    /// What to do.
    pub hint: Option<String>,
    /// PostgreSQL's code.
    pub sqlstate: Option<String>,
    /// Whether trying again may help (the connection broke).
    pub class: ErrorClass,
}

impl AnalysisError {
    pub(crate) fn definite(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), position: None, hint: Some(hint.into()), sqlstate: None, class: ErrorClass::Definite }
    }

    /// An error of the view's creation, its position moved from our statement into the user's text.
    pub(super) fn in_query(error: &tokio_postgres::Error, prefix_characters: usize) -> Self {
        let mut analysis = Self::from_sql(error);
        if let Some(db) = error.as_db_error() {
            analysis.position = match db.position() {
                Some(ErrorPosition::Original(at)) => (*at as usize).checked_sub(prefix_characters + 1),
                Some(ErrorPosition::Internal { .. }) | None => None,
            };
        }
        analysis
    }

    pub(super) fn from_sql(error: &tokio_postgres::Error) -> Self {
        let db = error.as_db_error();
        Self {
            message: db.map_or_else(|| describe(error), |db| db.message().to_owned()),
            position: None,
            hint: db.and_then(|db| db.hint()).map(str::to_owned),
            sqlstate: db.map(|db| db.code().code().to_owned()),
            class: classify(error),
        }
    }
}

impl From<tokio_postgres::Error> for AnalysisError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from_sql(&error)
    }
}
