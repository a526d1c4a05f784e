//! The statements that maintain a projection. They are a feature: readable, and shown by `lockstep plan --sql`.
//!
//! Every statement follows one pattern, with the CTEs
//!
//! * `dirty`: the keys to refresh, bound as text arrays and cast in SQL;
//! * `fresh`: what the rows of those keys are at the snapshot;
//! * `gone`, `changed`, `added`: the three differences, written; an unchanged row is not touched.
//!
//! Rows are compared with `record_image_ne`, the comparison of stored images that `REFRESH MATERIALIZED VIEW CONCURRENTLY` uses: it works for
//! types without equality (json), and it sees that 1.0 and 1.00 differ.

mod accumulate;
mod claims;
mod ddl;
mod groups;
mod guard;
mod link;
mod merge;
mod refresh;

pub use accumulate::{accumulator_indexes, fill_accumulators};
pub use claims::{HiddenClaim, accumulator_claims, contribution_claim, link_claim};
pub use ddl::{add_comment, create_state_table, create_table, replica_identity};
pub use groups::{group_duplicates, group_keys, group_leftovers, group_merge, group_removal};
pub use guard::{Guard, RefusingIndex, guard};
pub use link::Link;
pub(crate) use merge::locator;
pub use merge::{Merge, RowKey};
pub use refresh::{
    Fresh, Places, TracedKeys, contribution_merge, contribution_merge_accumulating, defining_query_duplicates, dirty_cte,
    kept_keys, next_root_keys, root_keys, row_merge, whole_merge,
};

/// A table of hidden state in schema `lockstep`.
#[derive(Clone, PartialEq, Eq)]
pub struct StateTable {
    /// Its name.
    pub name: String,
    /// What it holds, for the reader of a plan.
    pub purpose: String,
    /// All columns, key first.
    pub columns: Vec<String>,
    /// Their types, as `CREATE TABLE` wants them; empty until PostgreSQL has told.
    pub types: Vec<String>,
    /// Which of them are domains: one that refuses NULL still holds the NULLs of an outer join.
    pub domains: Vec<bool>,
    /// The key columns.
    pub key: Vec<String>,
    /// Whether several rows may have the same key.
    pub many_per_key: bool,
    /// A query whose result has the table's columns: what is stored, unrestricted.
    pub definition: String,
    /// The columns whose hash finds its rows.
    pub located_by: Vec<String>,
}

/// What the table is made from. Tables are told apart by this text (see `setup.rs`), so what follows from the types is not in it.
#[expect(clippy::missing_fields_in_debug, reason = "what follows from the others would make every table another one")]
impl std::fmt::Debug for StateTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StateTable")
            .field("name", &self.name)
            .field("purpose", &self.purpose)
            .field("columns", &self.columns)
            .field("types", &self.types)
            .field("key", &self.key)
            .field("many_per_key", &self.many_per_key)
            .field("definition", &self.definition)
            .field("located_by", &self.located_by)
            .finish()
    }
}
