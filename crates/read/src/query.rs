//! What can be asked of a projection.

use crate::condition::Condition;

/// What is asked for. Names are checked when the SQL is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The columns; all but those for full-text search, if empty.
    pub columns: Vec<String>,
    /// Filters; all must hold.
    pub conditions: Vec<Condition>,
    /// A full-text search.
    pub text: Option<TextSearch>,
    /// The order; the key is added, so that it is total.
    pub order: Vec<Order>,
    /// Which rows.
    pub window: Window,
    /// Whether to count.
    pub total: Total,
    /// Values with their counts.
    pub facets: Vec<Facet>,
    /// Snippets, only with a full-text search.
    pub highlight: Option<Highlight>,
}

/// A full-text search, as people write them for a web search: `"red shoes" -leather or boots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextSearch {
    /// The parameter, for messages.
    pub parameter: String,
    /// The tsvector column.
    pub column: String,
    /// What people wrote.
    pub input: String,
    /// Look for similar words in this column instead: somebody may have mistyped.
    pub similar: Option<Similar>,
}

/// Where to look for similar words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Similar {
    /// The column.
    pub column: String,
    /// The quoted schema of `pg_trgm`.
    pub trigrams: String,
}

/// One part of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The parameter, for messages.
    pub parameter: String,
    /// What to order by.
    pub by: OrderBy,
    /// Largest first; NULLs count as the largest, as PostgreSQL has it.
    pub descending: bool,
}

/// What rows can be ordered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderBy {
    /// A column.
    Column(String),
    /// How well the row fits the full-text search.
    Rank,
}

/// Which rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// The n-th page, from 1.
    Page {
        /// Which.
        page: u32,
        /// Rows of a page.
        limit: u32,
    },
    /// After the row where another page ended.
    After {
        /// Its cursor; `None` for the first page.
        cursor: Option<String>,
        /// Rows of a page.
        limit: u32,
    },
}

/// How the rows are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// One by one.
    Exact,
    /// As PostgreSQL's planner guesses.
    Estimated,
    /// Not at all.
    None,
}

/// Values of a column with their counts, or for numbers a histogram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facet {
    /// What it is called in the answer.
    pub name: String,
    /// The column.
    pub column: String,
}

/// Snippets of texts with the words that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Highlight {
    /// The text columns.
    pub columns: Vec<String>,
}
