//! What identifies a row.

use super::quote;

/// What identifies a row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKey {
    /// Columns that are never NULL and unique: a primary key.
    Primary(Vec<String>),
    /// Columns that may be NULL, or too long for a B-tree: rows are found by an index on their hash and then compared.
    Located(Vec<String>),
    /// At most one row.
    SingleRow,
    /// Equal rows are counted. They are found by an index on the hash of these columns; without any, all rows are looked at.
    Copies {
        /// The columns, which are those that a refresh is restricted by.
        within: Vec<String>,
    },
}

impl RowKey {
    /// The number of columns of the identity by which other projections know the rows; 0 if they know none.
    pub fn identity_columns(&self) -> usize {
        match self {
            Self::Primary(columns) => columns.len(),
            // The hash of those columns; of the whole row.
            Self::Located(_) | Self::Copies { .. } | Self::SingleRow => 1,
        }
    }

    /// The key's columns.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Primary(columns) | Self::Located(columns) | Self::Copies { within: columns } => columns,
            Self::SingleRow => &[],
        }
    }
}

/// The `hash_record_extended` of some columns: an immutable, NULL-safe locator that an index can hold whatever the columns' types
/// and lengths. A collision costs a comparison, never a wrong answer.
pub(crate) fn locator(prefix: &str, columns: &[String]) -> String {
    format!("hash_record_extended(ROW({}), 0)", quote::prefixed_list(prefix, columns))
}
