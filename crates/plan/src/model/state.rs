//! Tables of hidden state.

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
