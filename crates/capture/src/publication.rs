//! The publication: what it must cover, whether it does, and the statement that makes it so.
//!
//! It lists identity columns only where PostgreSQL can (15 and later), so that the walsender neither detoasts nor sends wide
//! columns.

use tokio_postgres::Client;

use crate::tracked::Tracked;

/// The first version with column lists (`server_version_num` / 10000).
const COLUMN_LISTS_FROM: u32 = 15;

/// What a publication lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// It does not exist.
    Missing,
    /// It exists and publishes every tracked relation's identity and every kind of change.
    Complete,
    /// It exists and something is missing; each entry says what.
    Incomplete(Vec<String>),
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
        lacks.push("it does not publish every kind of change (insert, update, delete, truncate)".to_owned());
    }
    if !row.get::<_, bool>(1) {
        lacks.push("publish_via_partition_root is off".to_owned());
    }
    let columns = if major >= COLUMN_LISTS_FROM { "attnames::text[], rowfilter" } else { "NULL::text[], NULL::text" };
    let rows = client
        .query(
            &format!("SELECT schemaname::text, tablename::text, {columns} FROM pg_publication_tables WHERE pubname = $1"),
            &[&publication],
        )
        .await?;
    for relation in tracked {
        let published =
            rows.iter().find(|row| row.get::<_, &str>(0) == relation.schema && row.get::<_, &str>(1) == relation.name);
        let Some(row) = published else {
            lacks.push(format!("{} is not published", relation.label()));
            continue;
        };
        if row.get::<_, Option<&str>>(3).is_some() {
            lacks.push(format!("{} is published with a row filter", relation.label()));
        }
        let names: Option<Vec<&str>> = row.get(2);
        if let Some(missing) = names.and_then(|names| relation.identity.iter().find(|column| !names.contains(&column.as_str()))) {
            lacks.push(format!("{} is published without its identity column {missing}", relation.label()));
        }
    }
    Ok(if lacks.is_empty() { Coverage::Complete } else { Coverage::Incomplete(lacks) })
}

/// The statements that create the publication, or bring an existing one to cover what is tracked.
pub fn publication_statement(publication: &str, tracked: &[Tracked], major: u32, exists: bool) -> Vec<String> {
    let tables: Vec<String> = tracked.iter().map(|relation| table(relation, major)).collect();
    let name = quote(publication);
    let options = "(publish = 'insert, update, delete, truncate', publish_via_partition_root = true)";
    if exists {
        vec![
            format!("ALTER PUBLICATION {name} SET TABLE {}", tables.join(", ")),
            format!("ALTER PUBLICATION {name} SET {options}"),
        ]
    } else {
        vec![format!("CREATE PUBLICATION {name} FOR TABLE {} WITH {options}", tables.join(", "))]
    }
}

fn table(relation: &Tracked, major: u32) -> String {
    let name = format!("{}.{}", quote(&relation.schema), quote(&relation.name));
    if major < COLUMN_LISTS_FROM || relation.full || relation.identity.is_empty() {
        return name;
    }
    let columns: Vec<String> = relation.identity.iter().map(|column| quote(column)).collect();
    format!("{name} ({})", columns.join(", "))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
