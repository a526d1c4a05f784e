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
mod build;
mod claims;
mod contributions;
mod ddl;
mod groups;
mod guard;
mod indexes;
mod keys;
mod link;
mod merge;
mod parts;
mod rows;

pub use accumulate::{accumulator_indexes, fill_accumulators};
pub use build::BuildPage;
pub use claims::{HiddenClaim, accumulator_claims, contribution_claim, link_claim};
pub use contributions::{contribution_merge, contribution_merge_accumulating};
pub use ddl::{add_comment, create_state_table, create_table, replica_identity};
pub use groups::{group_duplicates, group_keys, group_leftovers, group_merge, group_removal};
pub use guard::{Guard, RefusingIndex, guard};
pub use indexes::{IndexScript, check_indexes, index_names, indexes_for};
pub use keys::{defining_query_duplicates, hashes, kept_keys, root_keys};
pub use link::Link;
pub use merge::Merge;
pub use parts::{Fresh, Places, TracedKeys, dirty_cte};
pub use rows::{row_merge, whole_merge};
