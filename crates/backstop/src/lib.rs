//! Proof: is a projection exactly the result of its defining query?
//!
//! ```text
//!   batch, before its commit ──exported snapshot──► expected: the defining query, on the source at the batch's snapshot
//!   batch, after its commit  ──new snapshot───────► actual: the projection's table, as that batch left it
//!                                                    expected EXCEPT ALL actual, and the other way round
//! ```
//!
//! The comparison shares no maintenance code with the refresh, so a planner's fault cannot hide itself: PostgreSQL runs the query
//! as the user wrote it. It has no false positives, because both sides stand at one source snapshot, and
//! misses nothing but what two sums of 64-bit hashes miss at once.

mod compare;
mod digest;
mod pair;
mod rows;
mod verify;
mod view;

pub use compare::{Comparison, Subject, compare, compare_in_one_session};
pub use pair::{PairError, SnapshotPair};
pub use rows::Sample;
pub use verify::{Claim, Difference, DifferenceKind, Verdict, verify};
pub use view::{Refreshed, View};
