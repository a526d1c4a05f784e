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

/// For each tracked relation a text that changes when changes of it can no longer be followed as before, or were missed: it was replaced
/// by another table of its name, its key changed, a partition was attached, detached or truncated by itself (PostgreSQL publishes none of
/// these). Added columns change nothing.
///
/// # Errors
/// The query failed.
pub async fn signatures(client: &tokio_postgres::Client, tracked: &[Tracked]) -> Result<Vec<String>, tokio_postgres::Error> {
    let schemas: Vec<&str> = tracked.iter().map(|relation| relation.schema.as_str()).collect();
    let names: Vec<&str> = tracked.iter().map(|relation| relation.name.as_str()).collect();
    let rows = client
        .query(
            "SELECT coalesce(
                 (SELECT concat_ws(' ', c.oid, c.relreplident,
                         (SELECT string_agg(i.indkey::text || i.indisprimary || i.indisreplident, ',' ORDER BY i.indexrelid)
                          FROM pg_index AS i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)),
                         (SELECT string_agg(concat(p.relid::oid, '/', pg_relation_filenode(p.relid)), ',' ORDER BY p.relid::oid)
                          FROM pg_partition_tree(c.oid) AS p WHERE p.isleaf AND p.relid <> c.oid),
                         (SELECT string_agg(h.inhrelid::text, ',' ORDER BY h.inhrelid)
                          FROM pg_inherits AS h WHERE h.inhparent = c.oid AND c.relkind = 'r'))
                  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE n.nspname = t.schema_name AND c.relname = t.table_name),
                 'gone')
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (schema_name, table_name, number) ORDER BY t.number",
            &[&schemas, &names],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
