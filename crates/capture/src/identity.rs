//! Tables on which publishing would make the application's updates and deletes fail, or would lose keys.
//!
//! An update of a partitioned table is checked against the replica identity of the leaf that holds the row, not against the root's
//! (`CheckCmdReplicaIdentity`, PostgreSQL's `execReplication.c`), and the old key that the stream carries is the leaf's, too.

use tokio_postgres::Client;

/// A table whose replica identity will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unidentified {
    /// `schema.name` of the table that it is a partition of, or its own.
    pub root: String,
    /// The table, quoted.
    pub table: String,
    /// What is wrong, to be read after the table's name.
    pub reason: String,
    /// The statement that mends it.
    pub remedy: String,
}

/// Looks at tables (oids) with all their partitions. Where a root's rows are told apart by columns, leaves must be told apart by the
/// same ones, or send whole rows.
///
/// # Errors
/// The query failed.
pub async fn unidentified(client: &Client, tables: &[u32]) -> Result<Vec<Unidentified>, tokio_postgres::Error> {
    let rows = client
        .query(
            "WITH identity AS MATERIALIZED (
                 SELECT r.root, c.oid, c.relkind, c.relreplident, i.columns, format('%I.%I', n.nspname, c.relname) AS name, concat(n.nspname, '.', c.relname) AS label
                 FROM (SELECT t.oid AS root, t.oid FROM unnest($1::oid[]) AS t (oid)
                       UNION SELECT t.oid, p.relid::oid FROM unnest($1::oid[]) AS t (oid), pg_partition_tree(t.oid) AS p WHERE p.isleaf) AS r
                 JOIN pg_class AS c ON c.oid = r.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 LEFT JOIN LATERAL (
                     SELECT ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) ORDER BY 1) AS columns
                     FROM pg_index AS i
                     WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                       AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
                 ) AS i ON true
             )
             SELECT l.name,
                    CASE WHEN l.relreplident = 'f' THEN 'has REPLICA IDENTITY FULL and a virtual generated column, which cannot be published'
                         WHEN l.relreplident = 'n' THEN 'has REPLICA IDENTITY NOTHING'
                         WHEN l.columns IS NULL AND l.relreplident = 'i' THEN 'has lost the index that was its replica identity'
                         WHEN l.columns IS NULL THEN 'has no primary key and no replica identity'
                         ELSE format('is identified by (%s), and %s by (%s)', array_to_string(l.columns, ', '), r.name,
                                     array_to_string(r.columns, ', ')) END,
                    format('ALTER TABLE %s REPLICA IDENTITY %s', l.name,
                           coalesce((SELECT CASE WHEN i.indisprimary THEN 'DEFAULT' ELSE format('USING INDEX %I', x.relname) END
                                     FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
                                     WHERE i.indrelid = l.oid AND i.indisvalid AND i.indimmediate AND i.indisunique AND i.indpred IS NULL
                                       AND i.indexprs IS NULL
                                       AND (r.columns IS NULL OR r.columns = l.columns AND l.oid = r.oid
                                            OR r.columns = ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                                                                 WHERE a.attrelid = l.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) ORDER BY 1))
                                       AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = l.oid AND NOT a.attnotnull
                                                         AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
                                     ORDER BY i.indisprimary DESC, x.relname LIMIT 1),
                                    'FULL')),
                    r.label
             FROM identity AS l JOIN identity AS r ON r.oid = l.root AND r.root = l.root
             WHERE l.relkind = 'r'
               AND CASE l.relreplident
                   WHEN 'f' THEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = l.oid AND a.attgenerated = 'v')
                   WHEN 'n' THEN true
                   ELSE l.columns IS NULL OR r.columns IS NOT NULL AND l.columns <> r.columns END
             ORDER BY 1",
            &[&tables],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Unidentified { table: row.get(0), reason: row.get(1), remedy: row.get(2), root: row.get(3) })
        .collect())
}

/// The same for everything that a publication publishes now.
///
/// # Errors
/// The query failed.
pub async fn unidentified_in(client: &Client, publication: &str) -> Result<Vec<Unidentified>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT DISTINCT c.oid FROM pg_publication_tables AS t
             JOIN pg_namespace AS n ON n.nspname = t.schemaname JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
             WHERE t.pubname = $1",
            &[&publication],
        )
        .await?;
    let tables: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    unidentified(client, &tables).await
}
