//! A look at batches from outside: audits, verification, tests.

use futures_util::future::BoxFuture;
use lockstep_plan::facts::OutputColumn;
use tokio_postgres::Client;

use crate::quarantine::Key;
use crate::suspects::SuspectKind;

/// A table and the query that it must equal at a batch's snapshot.
#[derive(Debug, Clone)]
pub struct LiveClaim {
    /// `rows`, or the name of a hidden table.
    pub part: String,
    /// A FROM item: the table.
    pub table: String,
    /// The query.
    pub definition: String,
    /// Whether the query runs on the target.
    pub on_target: bool,
    /// All columns.
    pub columns: Vec<String>,
    /// The columns that identify a row; all, if nothing does.
    pub key: Vec<String>,
    /// The columns that say what is to be refreshed if a row differs.
    pub suspect_columns: Vec<String>,
    /// How.
    pub suspect: SuspectKind,
    /// Keys in quarantine, of these columns: their rows may differ.
    pub without: (Vec<String>, Vec<Key>),
    /// Why it cannot be compared now.
    pub obstacle: Option<String>,
}

/// A projection that is live in the batch.
#[derive(Debug, Clone)]
pub struct LiveProjection {
    /// Its name.
    pub name: String,
    /// Its defining query.
    pub query: String,
    /// The same with the batch's time in the place of `now()` and its like, for sessions with another time.
    pub query_at: String,
    /// Its columns.
    pub columns: Vec<OutputColumn>,
    /// The schema of its table.
    pub schema: String,
    /// Whether the defining query reads projections, so that it runs on the target.
    pub on_target: bool,
    /// The time zone that its query is computed in.
    pub time_zone: String,
    /// Whether it is recomputed on a schedule because its result changes with the clock: then it equals its query at the time it was last computed.
    pub depends_on_time: bool,
    /// Keys that are set aside; if there are any, its table is not equal to its query, which itself may fail.
    pub quarantined: usize,
    /// What its tables claim to hold: its rows, then its hidden state. Empty if nobody wants it.
    pub claims: Vec<LiveClaim>,
    /// The projection that it is a hidden part of.
    pub part_of: Option<String>,
}

/// A batch, all written and not yet committed. The source session's snapshot is the batch's; the target session sees the batch's
/// writes. With one database both are the same session.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    /// The group.
    pub group: &'a str,
    /// The source session, inside the batch's snapshot.
    pub source: &'a Client,
    /// The target session, inside the batch's transaction.
    pub target: &'a Client,
    /// Whether both are one session.
    pub one_database: bool,
    /// The group's live projections.
    pub live: &'a [LiveProjection],
    /// Whether they were asked for; `live` is empty otherwise.
    pub viewed: bool,
    /// After the commit: for each transaction of the batch, seconds from its commit in the source to its visibility here.
    pub freshness_seconds: &'a [f64],
}

/// Told about every batch.
pub trait BatchObserver: Send + Sync {
    /// Whether it wants to see this group's batch: a view is not made for nobody.
    fn wants(&self, _group: &str) -> bool {
        true
    }

    /// Whether it wants to see the claims too, which take longer to make.
    fn wants_claims(&self, _group: &str) -> bool {
        false
    }

    /// Before the commit. An error refuses the batch and stops the group.
    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>>;

    /// After the commit and before the group's next batch.
    fn after_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, ()>;
}
