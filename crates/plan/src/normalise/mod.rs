//! Rewrites that leave a query's meaning and make it simpler to analyse.
//!
//! * `inline`: WITH queries and views become subqueries in FROM. PostgreSQL flattens those again where it can, so the text that runs is
//!   as fast, and the planner sees one kind of nesting only.
//! * `outer`: a full join becomes two branches, one for the rows that each side owns.
//! * `union`: UNION and UNION ALL become a list of branches.

mod inline;
mod outer;
mod tables;
mod union;

pub(crate) use inline::inline;
pub(crate) use outer::split_full_joins;
pub(crate) use tables::for_each_table;
pub(crate) use union::{Combination, arms};
