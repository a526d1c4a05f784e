//! The publication: what it must cover, whether it does, and the statement that makes it so.
//!
//! It lists identity columns only where PostgreSQL can (15 and later), so that the walsender neither detoasts nor sends wide
//! columns.

use tokio_postgres::Client;

use crate::tracked::Tracked;

/// The first version with column lists (`server_version_num` / 10000).
const COLUMN_LISTS_FROM: u32 = 15;

/// From this version on an identity that holds an unpublished generated column makes updates fail, and stored ones can be published.
const GENERATED_FROM: u32 = 18;

/// What a publication lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// It does not exist.
    Missing,
    /// It exists and publishes every tracked relation's identity and every kind of change.
    Complete,
    /// It exists and something is missing.
    Incomplete(Vec<Lack>),
}

/// Something that a publication lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// In words.
    pub reason: String,
    /// The relation it is about (index into the tracked ones), and whether it is published at all.
    relation: Option<(usize, bool)>,
}

impl Lack {
    /// The relation it is about, as an index into the tracked ones; `None` if it is about all.
    pub fn relation(&self) -> Option<usize> {
        self.relation.map(|(index, _)| index)
    }
}

/// Compares a publication with what must be published.
///
/// # Errors
/// The query failed.
pub async fn coverage(
    client: &Client,
    publication: &str,
    tracked: &[Tracked],
    major: u32,
) -> Result<Coverage, tokio_postgres::Error> {
    let found = client
        .query_opt(
            "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1",
            &[&publication],
        )
        .await?;
    let Some(row) = found else { return Ok(Coverage::Missing) };
    let mut lacks = Vec::new();
    if !row.get::<_, bool>(0) {
        lacks.push(Lack { reason: "it does not publish every kind of change".to_owned(), relation: None });
    }
    if !row.get::<_, bool>(1) {
        lacks.push(Lack { reason: "publish_via_partition_root is off".to_owned(), relation: None });
    }
    if major >= GENERATED_FROM && leaves_generated_out(client, publication, tracked).await? {
        lacks.push(Lack {
            reason: "it leaves stored generated columns out, which replica identities hold".to_owned(),
            relation: None,
        });
    }
    let columns = if major >= COLUMN_LISTS_FROM {
        "attnames::text[], rowfilter,
         (SELECT bool_or(r.prattrs IS NOT NULL)
          FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid JOIN pg_class AS c ON c.oid = r.prrelid
          JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE p.pubname = t.pubname AND n.nspname = t.schemaname AND c.relname = t.tablename)"
    } else {
        "NULL::text[], NULL::text, NULL::boolean"
    };
    let rows = client
        .query(
            &format!("SELECT schemaname::text, tablename::text, {columns} FROM pg_publication_tables AS t WHERE pubname = $1"),
            &[&publication],
        )
        .await?;
    for (index, relation) in tracked.iter().enumerate() {
        let mut lack = |reason: String, published: bool| lacks.push(Lack { reason, relation: Some((index, published)) });
        let published =
            rows.iter().find(|row| row.get::<_, &str>(0) == relation.schema && row.get::<_, &str>(1) == relation.name);
        let Some(row) = published else {
            lack(format!("{} is not published", relation.label()), false);
            continue;
        };
        if row.get::<_, Option<&str>>(3).is_some() {
            lack(format!("{} is published with a row filter", relation.label()), true);
        }
        if relation.full && row.get::<_, Option<bool>>(4) == Some(true) {
            lack(format!("{} is published with some columns, and its rows are identified by all", relation.label()), true);
        }
        let names: Option<Vec<&str>> = row.get(2);
        if let Some(missing) = names.and_then(|names| relation.identity.iter().find(|column| !names.contains(&column.as_str()))) {
            lack(format!("{} is published without its identity column {missing}", relation.label()), true);
        }
    }
    Ok(if lacks.is_empty() { Coverage::Complete } else { Coverage::Incomplete(lacks) })
}

/// Whether a table whose rows are identified by all columns has a stored generated one that the publication leaves out: then PostgreSQL
/// refuses to update it (`CheckCmdReplicaIdentity`, `execReplication.c`).
async fn leaves_generated_out(client: &Client, publication: &str, tracked: &[Tracked]) -> Result<bool, tokio_postgres::Error> {
    let tables: Vec<u32> = tracked.iter().map(|relation| relation.oid).collect();
    let row = client
        .query_one(
            "SELECT EXISTS (
                 SELECT FROM unnest($1::oid[]) AS t (oid)
                 JOIN pg_class AS c ON c.oid = t.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(t.oid))
                 JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attgenerated = 's' AND NOT a.attisdropped
                 WHERE c.relreplident = 'f' AND EXISTS (SELECT FROM pg_publication WHERE pubname = $2 AND pubgencols = 'n'))",
            &[&tables, &publication],
        )
        .await?;
    Ok(row.get(0))
}

/// The statements that create the publication, or add what an existing one lacks. Other tables in it are left alone.
pub fn publication_statements(publication: &str, tracked: &[Tracked], major: u32, found: &Coverage) -> Vec<String> {
    let name = quote(publication);
    let generated = if major >= GENERATED_FROM { ", publish_generated_columns = stored" } else { "" };
    let options = format!("(publish = 'insert, update, delete, truncate', publish_via_partition_root = true{generated})");
    match found {
        Coverage::Complete => Vec::new(),
        Coverage::Missing => {
            let tables: Vec<String> = tracked.iter().map(|relation| table(relation, major)).collect();
            vec![format!("CREATE PUBLICATION {name} FOR TABLE {} WITH {options}", tables.join(", "))]
        }
        Coverage::Incomplete(lacks) => {
            // The options first: a column list on a partitioned table needs publish_via_partition_root. Only where they are wrong: what
            // is set anew counts as a time in which anything may have been missing.
            let wrong_options = lacks.iter().any(|lack| lack.relation.is_none());
            let mut statements: Vec<String> =
                wrong_options.then(|| format!("ALTER PUBLICATION {name} SET {options}")).into_iter().collect();
            let mut changed: Vec<(usize, bool)> = lacks.iter().filter_map(|lack| lack.relation).collect();
            changed.dedup_by_key(|(index, _)| *index);
            for (index, published) in changed {
                let relation = &tracked[index];
                if published {
                    statements.push(format!(
                        "ALTER PUBLICATION {name} DROP TABLE {}.{}",
                        quote(&relation.schema),
                        quote(&relation.name)
                    ));
                }
                statements.push(format!("ALTER PUBLICATION {name} ADD TABLE {}", table(relation, major)));
            }
            statements
        }
    }
}

fn table(relation: &Tracked, major: u32) -> String {
    // Inheritance children are followed under their own names, and must not come twice.
    let only = if relation.partitioned { "" } else { "ONLY " };
    let name = format!("{only}{}.{}", quote(&relation.schema), quote(&relation.name));
    if major < COLUMN_LISTS_FROM || relation.full || relation.identity.is_empty() {
        return name;
    }
    let columns: Vec<String> = relation.identity.iter().map(|column| quote(column)).collect();
    format!("{name} ({})", columns.join(", "))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
