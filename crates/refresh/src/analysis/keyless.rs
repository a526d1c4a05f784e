//! Tables without a key, of which the stream sends whole rows (REPLICA IDENTITY FULL): their rows are known by the hash of what they hold.

use lockstep_plan::facts::{Identity, LOCATOR, Relation, RelationKind};
use tokio_postgres::Client;

use super::error::AnalysisError;
use super::types::hashes;

/// What mends it that a row cannot be known by its hash.
const REMEDY: &str = "give it a primary key, or a unique index and REPLICA IDENTITY USING INDEX";

/// Lets the rows of a table without a key be known by the hash of their columns, or says why not. Generated columns follow from the
/// others, and the stream does not deliver all of them.
pub(super) async fn identify(client: &Client, relation: &mut Relation) -> Result<(), AnalysisError> {
    if let Some(why) = why_not_followed(client, relation).await? {
        relation.identity = Identity::FullRow { because: Some(format!("{why}: {REMEDY}")) };
        return Ok(());
    }
    let mut columns = Vec::new();
    for (name, type_name) in stored_columns(client, relation.oid).await? {
        if !hashes(client, &type_name).await? {
            let why = format!("its column {name} is of type {type_name}, which has no hash");
            relation.identity = Identity::FullRow { because: Some(format!("{why}: {REMEDY}")) };
            return Ok(());
        }
        columns.push(name);
    }
    if !columns.is_empty() {
        relation.identity = Identity::Columns { columns: vec![LOCATOR.to_owned()], full: true };
        relation.located_by = columns;
    }
    Ok(())
}

/// Why the stream does not deliver the whole rows of a table under its name.
async fn why_not_followed(client: &Client, relation: &Relation) -> Result<Option<&'static str>, AnalysisError> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_partition_tree($1::oid) AS p JOIN pg_class AS c ON c.oid = p.relid
                            WHERE (p.isleaf OR p.level = 0) AND c.relreplident <> 'f'),
                    EXISTS (SELECT FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhparent WHERE i.inhrelid = $1::oid AND p.relkind = 'r')",
            &[&relation.oid],
        )
        .await?;
    Ok(if row.get(0) {
        // The old row of such a partition comes with the columns of its key alone, and is not told from a whole one.
        Some("not all of its partitions have REPLICA IDENTITY FULL")
    } else if row.get(1) || relation.kind == RelationKind::InheritanceParent {
        Some("it is of an inheritance family")
    } else {
        None
    })
}

/// Names and types of the columns that are not generated.
async fn stored_columns(client: &Client, oid: u32) -> Result<Vec<(String, String)>, AnalysisError> {
    let rows = client
        .query(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
             WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
