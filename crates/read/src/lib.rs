//! Reading projections, free of HTTP.
//!
//! ```text
//!   Query ──► select (SQL for rows, total, facets) ──► Reader ──► projection ──► view ──► tables
//!                     ▲                                  │        first attempt that answers
//!                   Table (columns, key: catalogue)      └── version (ETag, staleness, position: checkpoint)
//! ```
//!
//! Names in the SQL come from PostgreSQL's catalogue, never from a request; every value of a request is bound as text and cast to its
//! column's type by PostgreSQL, so that what a value means is decided in one place.

mod answer;
mod attempt;
mod condition;
mod cube;
mod cursor;
mod error;
mod facet;
mod lane;
mod noted;
mod pool;
mod position;
mod query;
mod reader;
mod select;
mod settings;
mod suggest;
mod table;
mod totals;
mod version;

pub use answer::{Answer, Facets, Request};
pub use condition::{Condition, Operator, values};
pub use cube::{CUBE_ROWS, Cube};
pub use error::{ReadError, SourceFault};
pub use pool::Pool;
pub use query::{Facet, Highlight, Order, OrderBy, Query, Similar, TextSearch, Total, Window};
pub use reader::{Pools, Reader};
pub use settings::{Miss, Model, ReadSettings, Source};
pub use suggest::Suggestion;
pub use table::{Column, JsonKind, Table};
pub use version::Version;
