//! What was found and done.

use serde::Serialize;

/// A place where an order decides values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tie {
    /// The construct, as PostgreSQL prints it.
    pub construct: String,
    /// What is appended to its ORDER BY; empty where that would mean something else, or what tells the rows apart is not known.
    pub appended: Vec<String>,
    /// Whether unequal rows tie; otherwise equal values that look different do.
    pub between_unequal: bool,
}

/// A query whose orders are total.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The query; as it was if nothing is appended.
    pub sql: String,
    /// The places where that made a difference.
    pub ties: Vec<Tie>,
}
