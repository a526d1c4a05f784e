//! Rewrites that leave a query's meaning and make it simpler to analyse.
//!
//! * `inline`: WITH queries and views become subqueries in FROM. PostgreSQL flattens those again where it can, so the text that runs is
//!   as fast, and the planner sees one kind of nesting only.
//! * `using`: USING of full joins becomes ON.
//! * `outer`: a full join becomes two branches, one for the rows that each side owns.
//! * `order`: what is not determined is made so.
//! * `grouping_sets`: they become a UNION ALL of groupings.
//! * `union`: set operations become a list of arms, and how often a row counts.

mod grouping_sets;
mod inline;
mod order;
mod outer;
mod union;
mod using;

pub(crate) use grouping_sets::{grouped_by, written_out as groupings_written_out};
pub(crate) use inline::inline;
pub use order::{Settled, Tie, settle};
pub(crate) use outer::split_full_joins;
pub(crate) use union::{Combination, arms, is_typed};
pub(crate) use using::without_using;
