//! The hidden tables of a new version when it takes its place: its own take the old names, those that it shares with the old version stay,
//! by the number that they have now, and the rest of the old ones is dropped.

use anyhow::Context as _;
use lockstep_plan::quote;
use tokio_postgres::{Row, Transaction};

use super::names::renamed;
use super::rename::rename_table;

/// A projection or a hidden part of it, as it is registered.
struct Hidden {
    name: String,
    schema: String,
    states: Vec<String>,
    of: Option<String>,
    becomes: Option<String>,
    stays_as: Option<String>,
}

impl Hidden {
    fn of(row: &Row) -> Self {
        Self {
            name: row.get(0),
            schema: row.get(1),
            states: row.get(2),
            of: row.get(3),
            becomes: row.get(4),
            stays_as: row.get(5),
        }
    }
}

/// The new version's hidden tables and records take the old names.
pub(super) async fn replace_hidden(transaction: &Transaction<'_>, name: &str, new: &str) -> anyhow::Result<()> {
    let mut stay = Vec::new();
    for part in parts(transaction, name).await? {
        if let Some(name) = &part.stays_as {
            // By a name that nothing has until all others have theirs.
            let meanwhile = format!("~{}", stay.len() + 1);
            let name = name.clone();
            stay.push((name, move_to(transaction, part, &meanwhile).await?));
        } else {
            drop_part(transaction, &part).await?;
        }
    }
    for part in parts(transaction, new).await? {
        let to = renamed(&part.name, new, name);
        let moved = move_to(transaction, part, &to).await?;
        let whole = moved.of.as_deref().map(|whole| renamed(whole, new, name));
        record(transaction, &moved, whole.as_deref()).await?;
    }
    for (to, part) in stay {
        let whole = to.rsplit_once("__part").map(|(whole, _)| whole.to_owned());
        let moved = move_to(transaction, part, &to).await?;
        record(transaction, &moved, whole.as_deref()).await?;
    }
    Ok(())
}

/// A projection and its parts at any depth.
async fn parts(transaction: &Transaction<'_>, name: &str) -> anyhow::Result<Vec<Hidden>> {
    let rows = transaction
        .query(
            "WITH RECURSIVE of (name) AS (
                 SELECT $1::text UNION SELECT p.name FROM lockstep.projection AS p JOIN of ON p.part_of = of.name
             )
             SELECT name, table_schema, state_tables, part_of, becomes, stays_as FROM lockstep.projection WHERE name IN (SELECT name FROM of)",
            &[&name],
        )
        .await?;
    Ok(rows.iter().map(Hidden::of).collect())
}

async fn drop_part(transaction: &Transaction<'_>, part: &Hidden) -> anyhow::Result<()> {
    for state in &part.states {
        transaction.batch_execute(&format!("DROP TABLE IF EXISTS {}", quote::qualified("lockstep", state))).await?;
    }
    if part.of.is_some() {
        transaction.batch_execute(&format!("DROP TABLE IF EXISTS {}", quote::qualified(&part.schema, &part.name))).await?;
    }
    transaction.execute("DELETE FROM lockstep.projection WHERE name = $1", &[&part.name]).await?;
    Ok(())
}

/// Gives a part another name, and its tables names that begin with that. The table that readers see is moved by itself.
async fn move_to(transaction: &Transaction<'_>, mut part: Hidden, to: &str) -> anyhow::Result<Hidden> {
    let from = std::mem::replace(&mut part.name, to.to_owned());
    for state in &mut part.states {
        let other = renamed(state, &from, to);
        rename_table(transaction, "lockstep", state, &other, |index| renamed(index, &from, to)).await?;
        *state = other;
    }
    if part.of.is_some() {
        rename_table(transaction, &part.schema, &from, to, |index| renamed(index, &from, to)).await?;
    }
    transaction
        .execute(
            "UPDATE lockstep.projection SET name = $2, state_tables = $3 WHERE name = $1",
            &[&from, &part.name, &part.states],
        )
        .await?;
    Ok(part)
}

/// Notes that a part has its place.
async fn record(transaction: &Transaction<'_>, part: &Hidden, whole: Option<&str>) -> anyhow::Result<()> {
    let becomes = part.becomes.as_ref().context("a part of the new version is not known under its old name")?;
    transaction
        .execute(
            "UPDATE lockstep.projection
             SET fingerprint = $2, part_of = $3, replaces = NULL, becomes = NULL, stays_as = NULL, ready = false
             WHERE name = $1",
            &[&part.name, becomes, &whole],
        )
        .await?;
    Ok(())
}
