//! What is asked, and what is answered.

use lockstep_wal::Lsn;

use crate::query::Query;
use crate::settings::Source;
use crate::version::Version;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The projection.
    pub projection: String,
    /// What of it.
    pub query: Query,
    /// The version that the client has.
    pub known: Option<String>,
    /// Everything that distinguishes this question from others; equal ones may be answered together.
    pub identity: String,
    /// The source that it insists on.
    pub forced: Option<Source>,
    /// What decides whether it takes part in a rollout.
    pub sticky_key: String,
    /// The position that the answer must contain.
    pub min_lsn: Option<Lsn>,
}

/// A facet's name and its JSON.
pub type Facets = Vec<(String, String)>;

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Where the rows come from; `None` if the client has them already.
    pub source: Option<Source>,
    /// Each row as JSON.
    pub rows: Vec<String>,
    /// The cursor of the next page, if there is one.
    pub next: Option<String>,
    /// How many rows there are, if it was asked for.
    pub total: Option<i64>,
    /// The facets that were asked for.
    pub facets: Facets,
    /// The version; without a tag unless the source is the projection.
    pub version: Version,
    /// Whether the client has this version.
    pub not_modified: bool,
}
