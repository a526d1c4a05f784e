//! Reading projections, free of HTTP.
//!
//! ```text
//!   Query ──► select (one SQL for rows, total, facets) ──► Reader ──► projection ──► view ──► tables
//!                     ▲                                      │           first that can answer
//!                   Table (columns, key, from the catalogue) └── checkpoint: ETag, staleness, position
//! ```
//!
//! Names in the SQL come from PostgreSQL's catalogue, never from a request; every value of a request is bound as text and cast to its
//! column's type by PostgreSQL, so that what a value means is decided in one place.

mod condition;
mod cursor;
mod error;
mod facet;
mod lane;
mod pool;
mod reader;
mod select;
mod settings;
mod suggest;
mod table;

pub use condition::{Condition, Operator};
pub use error::{ReadError, SourceFault};
pub use pool::Pool;
pub use reader::{Answer, Facets, Reader, Request, Version};
pub use select::{Facet, Highlight, Order, OrderBy, Query, Similar, TextSearch, Total, Window};
pub use settings::{Miss, Model, ReadSettings, Source};
pub use suggest::Suggestion;
pub use table::{Column, Table};
