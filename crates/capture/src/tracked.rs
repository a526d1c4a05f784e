//! The relations that some projection reads.

/// A relation to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Its oid on the source.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// The columns that identify a row; empty if rows cannot be told apart.
    pub identity: Vec<String>,
    /// The publication cannot list columns: REPLICA IDENTITY FULL, irregular partitions, a generated key.
    pub full: bool,
    /// A partitioned table.
    pub partitioned: bool,
}

impl Tracked {
    /// `schema.name`, for messages and labels.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// A group's interest in a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// The relation's oid.
    pub oid: u32,
    /// Whether the group wants the keys, or only to know that something changed.
    pub keys_wanted: bool,
}
