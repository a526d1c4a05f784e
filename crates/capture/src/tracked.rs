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
    /// Where the identity is the whole row: the columns of the table's row type, in order. A key is then a literal of that type, and
    /// columns that the stream does not deliver (generated ones) are NULL in it.
    pub row_type: Option<Vec<String>>,
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

/// What a tracked relation is: when it changes, changes of it can no longer be followed as before, or were missed. It was replaced by
/// another table of its name, its key changed, a partition was attached, detached or truncated by itself (PostgreSQL publishes none of
/// these), it left the publication and came back, columns were renamed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Signature {
    /// Oid, key, partitions and their files, place in the publication.
    of_table: String,
    /// Names and numbers of its columns.
    columns: Vec<String>,
    /// The catalog rows that say what is published of it. `None` where they were not recorded.
    #[serde(default)]
    published: Option<String>,
}

impl Signature {
    /// Whether nothing has happened since `before` but columns that were added.
    pub fn follows(&self, before: &Self) -> bool {
        let published = before.published.is_none() || self.published == before.published;
        published && self.of_table == before.of_table && before.columns.iter().all(|column| self.columns.contains(column))
    }
}

/// Schemas are published as a whole from this version on (`server_version_num` / 10000).
const SCHEMAS_FROM: u32 = 15;

/// What the publication publishes of table `c`, by the versions of the catalog rows that say so. Every ALTER PUBLICATION … SET writes
/// `pg_publication` anew and nothing else does but OWNER TO and RENAME (`publicationcmds.c`); tables and schemas that are added, and
/// those that get another column list or row filter, have new rows in `pg_publication_rel` and `pg_publication_namespace`, other
/// tables' rows stay. A partition is published with the tables above it. A table that left its schema and came back has another row
/// in `pg_depend`. And how the rows of partitions are identified.
fn published(major: u32) -> String {
    let schemas = if major < SCHEMAS_FROM {
        "NULL"
    } else {
        "(SELECT string_agg(concat(s.oid, '/', s.xmin), ',' ORDER BY s.oid)
          FROM pg_publication_namespace AS s
          WHERE s.pnpubid = p.oid AND s.pnnspid IN (SELECT a.relnamespace FROM pg_class AS a WHERE a.oid = ANY (up.family))),
         (SELECT string_agg(d.xmin::text, ',' ORDER BY d.objid)
          FROM pg_depend AS d
          WHERE d.classid = 'pg_class'::regclass AND d.objid = ANY (up.family) AND d.objsubid = 0
            AND d.refclassid = 'pg_namespace'::regclass)"
    };
    format!(
        "(SELECT concat_ws(' ', p.oid, p.xmin,
                 (SELECT string_agg(concat(r.oid, '/', r.xmin), ',' ORDER BY r.oid)
                  FROM pg_publication_rel AS r WHERE r.prpubid = p.oid AND r.prrelid = ANY (up.family)),
                 (SELECT string_agg(concat(l.oid, l.relreplident), ',' ORDER BY l.oid)
                  FROM pg_partition_tree(c.oid) AS t JOIN pg_class AS l ON l.oid = t.relid AND l.relreplident <> 'd'),
                 {schemas})
          FROM pg_publication AS p,
               LATERAL (SELECT c.oid || ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) AS a) AS family) AS up
          WHERE p.pubname = $3)"
    )
}

/// The signatures of tracked relations, in their order. `major` is the server's major version.
///
/// # Errors
/// The query failed.
pub async fn signatures(
    client: &tokio_postgres::Client,
    publication: &str,
    tracked: &[Tracked],
    major: u32,
) -> Result<Vec<Signature>, tokio_postgres::Error> {
    let schemas: Vec<&str> = tracked.iter().map(|relation| relation.schema.as_str()).collect();
    let names: Vec<&str> = tracked.iter().map(|relation| relation.name.as_str()).collect();
    let hashed: Vec<bool> = tracked.iter().map(|relation| relation.row_type.is_some()).collect();
    let published = published(major);
    let rows = client
        .query(
            &format!("SELECT coalesce(concat_ws(' ', c.oid, c.relreplident,
                        (SELECT string_agg(i.indkey::text || i.indisprimary || i.indisreplident, ',' ORDER BY i.indexrelid)
                         FROM pg_index AS i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)),
                        -- xmin: a partition that was detached and attached again has another.
                        (SELECT string_agg(concat(p.relid::oid, '/', pg_relation_filenode(p.relid), '/', h.xmin), ',' ORDER BY p.relid::oid)
                         FROM pg_partition_tree(c.oid) AS p JOIN pg_inherits AS h ON h.inhrelid = p.relid WHERE p.relid <> c.oid),
                        (SELECT string_agg(h.inhrelid::text, ',' ORDER BY h.inhrelid)
                         FROM pg_inherits AS h WHERE h.inhparent = c.oid AND c.relkind = 'r'),
                        (SELECT concat(r.oid, '/', r.xmin)
                         FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
                         WHERE r.prrelid = c.oid AND p.pubname = $3)), 'gone'),
                    -- What hashes are made of has types.
                    ARRAY(SELECT concat_ws(' ', a.attnum, a.attname, CASE WHEN t.is_hashed THEN concat_ws(' ', a.atttypid, a.atttypmod, a.attcollation) END)
                          FROM pg_attribute AS a
                          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
                    {published}
             FROM unnest($1::text[], $2::text[], $4::boolean[]) WITH ORDINALITY AS t (schema_name, table_name, is_hashed, number)
             LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace)
                    ON n.nspname = t.schema_name AND c.relname = t.table_name
             ORDER BY t.number"),
            &[&schemas, &names, &publication, &hashed],
        )
        .await?;
    Ok(rows.iter().map(|row| Signature { of_table: row.get(0), columns: row.get(1), published: row.get(2) }).collect())
}

#[cfg(test)]
mod tests {
    use super::Signature;

    #[test]
    fn added_columns_change_nothing() {
        let signature = |of_table: &str, columns: &[&str]| Signature {
            of_table: of_table.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            published: Some("7 700".to_owned()),
        };
        let before = signature("1", &["1 id", "2 a", "3 b"]);
        assert!(signature("1", &["1 id", "2 a", "3 b", "4 c"]).follows(&before));
        for other in
            [signature("2", &["1 id", "2 a", "3 b"]), signature("1", &["1 id", "2 b", "3 a"]), signature("1", &["1 id", "2 a"])]
        {
            assert!(!other.follows(&before));
        }
        let unpublished_for_a_moment = Signature { published: Some("7 701".to_owned()), ..before.clone() };
        assert!(!unpublished_for_a_moment.follows(&before));
        assert!(before.follows(&Signature { published: None, ..before.clone() }), "an earlier release recorded nothing of it");
    }
}
