//! Prepared statements, by their text, for the life of a session.

use std::collections::HashMap;

use tokio_postgres::{Client, Statement};

#[derive(Default)]
pub(crate) struct Statements {
    source: HashMap<String, Statement>,
    target: HashMap<String, Statement>,
}

impl Statements {
    /// A statement prepared on the source.
    pub(crate) async fn on_source(&mut self, client: &Client, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        prepared(&mut self.source, client, sql).await
    }

    /// A statement prepared on the target.
    pub(crate) async fn on_target(&mut self, client: &Client, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        prepared(&mut self.target, client, sql).await
    }
}

async fn prepared(
    cache: &mut HashMap<String, Statement>,
    client: &Client,
    sql: &str,
) -> Result<Statement, tokio_postgres::Error> {
    if let Some(statement) = cache.get(sql) {
        return Ok(statement.clone());
    }
    let statement = client.prepare(sql).await?;
    cache.insert(sql.to_owned(), statement.clone());
    Ok(statement)
}
