//! Prepared statements, by their text, for the life of a session.

use std::borrow::Cow;
use std::collections::HashMap;

use tokio_postgres::{Client, Statement};

#[derive(Default)]
pub(crate) struct Statements {
    source: HashMap<String, Statement>,
    target: HashMap<String, Statement>,
    /// Statements are prepared apart from the usual ones: their plans are made under other settings.
    pub(crate) apart: bool,
}

impl Statements {
    /// A statement prepared on the source.
    pub(crate) async fn on_source(&mut self, client: &Client, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        prepared(&mut self.source, client, sql, self.apart).await
    }

    /// A statement prepared on the target.
    pub(crate) async fn on_target(&mut self, client: &Client, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        prepared(&mut self.target, client, sql, self.apart).await
    }
}

async fn prepared(
    cache: &mut HashMap<String, Statement>,
    client: &Client,
    sql: &str,
    apart: bool,
) -> Result<Statement, tokio_postgres::Error> {
    let key = if apart { Cow::Owned(format!("{sql} -- apart")) } else { Cow::Borrowed(sql) };
    if let Some(statement) = cache.get(key.as_ref()) {
        return Ok(statement.clone());
    }
    let statement = client.prepare(sql).await?;
    cache.insert(key.into_owned(), statement.clone());
    Ok(statement)
}
