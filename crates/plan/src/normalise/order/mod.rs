//! What is not determined is made so.
//!
//! `DISTINCT ON (a)`, `array_agg(b ORDER BY a)`, `row_number() OVER (ORDER BY a)` and LIMIT have several right answers where rows tie.
//! PostgreSQL gives one; asked again, or over hidden tables, it may give another. So the order is made total before anything is planned:
//! what tells the rows apart is appended to it, and the query that has it is the one that is maintained, verified, repaired and put
//! into the materialized view. Its result is always one of the right answers of the query as it was written:
//!
//! * items are only appended, so rows that did not tie keep their order;
//! * … to functions and frames that do not see which rows tie (`window`);
//! * a query that is determined already stays as it is.

mod rows;
mod select;
mod shape;
mod tie;
mod window;

pub use tie::{Settled, Tie};

use crate::model::facts::Query;
use crate::syntax::{self, with_large_stack};

/// Makes the orders of a query total; `None` if nothing is open, or it has a construct that is not known.
pub fn settle(query: &Query) -> Option<Settled> {
    let work = || {
        let mut select = syntax::parse_select(&query.sql)?;
        let mut settler = select::Settler::new(query);
        settler.top(&mut select).map_err(|obstacle| obstacle.reason)?;
        let ties = settler.ties;
        let changes = ties.iter().any(|tie| !tie.appended.is_empty());
        let sql = if changes { syntax::print_select_pretty(&select)? } else { query.sql.clone() };
        Ok::<Settled, String>(Settled { sql, ties })
    };
    with_large_stack(work).ok()?.ok().filter(|settled| !settled.ties.is_empty())
}
