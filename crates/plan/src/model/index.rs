//! Indexes that a plan wants.

use super::quote;

/// What an index is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Columns are compared for equality.
    Equality,
    /// A column is compared with bounds, or rows are read in an order.
    Order,
    /// Expressions are compared for equality. Not every expression can be indexed.
    Expressions,
    /// A column's ranges or shapes overlap others or contain something.
    Overlap,
    /// A column's arrays or documents have elements.
    Elements,
}

/// An index that a plan wants and a table lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedIndex {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// What it is on, as CREATE INDEX has it: columns (quoted), expressions in parentheses, with a direction where there is one.
    pub keys: Vec<String>,
    /// What it is for.
    pub purpose: Purpose,
}

impl WantedIndex {
    /// The table, quoted, under its schema.
    pub fn qualified_table(&self) -> String {
        quote::qualified(&self.schema, &self.table)
    }

    /// The statement that makes it beside a running application.
    pub fn statement(&self) -> String {
        format!("CREATE INDEX CONCURRENTLY ON {} {}({});", self.qualified_table(), self.method(), self.keys.join(", "))
    }

    /// `USING …`, with a blank after it, where it is no B-tree.
    pub fn method(&self) -> &'static str {
        match self.purpose {
            Purpose::Equality | Purpose::Order | Purpose::Expressions => "",
            Purpose::Overlap => "USING gist ",
            Purpose::Elements => "USING gin ",
        }
    }
}
