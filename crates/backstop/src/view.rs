//! The materialized view behind a projection: the same query, maintained by PostgreSQL alone.

use tokio_postgres::Client;

/// A materialized view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its query.
    pub definition: String,
    /// The columns of the unique index that refreshing without locking readers out needs.
    pub unique: Vec<String>,
    /// Statements that create its other indexes.
    pub indexes: Vec<String>,
    /// Roles that may read it.
    pub readers: Vec<String>,
    /// Changes when the view must be made anew.
    pub fingerprint: String,
}

/// How a refresh went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// Rows in the view.
    pub rows: i64,
    /// Whether it was made, and not refreshed.
    pub made: bool,
}

impl View {
    /// Its quoted name.
    pub fn qualified(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    fn mark(&self) -> String {
        format!("lockstep backstop {}", self.fingerprint)
    }

    /// Whether it is there and of this definition.
    ///
    /// # Errors
    /// The statement fails.
    pub async fn is_there(&self, session: &Client) -> Result<bool, tokio_postgres::Error> {
        Ok(self.found_mark(session).await?.is_some_and(|mark| mark == self.mark()))
    }

    /// The mark of the view that is there.
    async fn found_mark(&self, session: &Client) -> Result<Option<String>, tokio_postgres::Error> {
        let row = session
            .query_opt(
                "SELECT coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'm'",
                &[&self.schema, &self.name],
            )
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Makes the view if it is missing or of another definition, otherwise refreshes it. Readers are never locked out.
    ///
    /// # Errors
    /// A statement fails, a time-out included.
    pub async fn refresh(&self, session: &Client) -> Result<Refreshed, tokio_postgres::Error> {
        let made = match self.found_mark(session).await? {
            Some(mark) if mark == self.mark() => false,
            Some(_) => {
                self.make(session, true).await?;
                true
            }
            None => {
                self.make(session, false).await?;
                true
            }
        };
        let name = self.qualified();
        if !made {
            session.batch_execute(&format!("REFRESH MATERIALIZED VIEW CONCURRENTLY {name}")).await?;
        }
        let rows = session.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.get(0);
        Ok(Refreshed { rows, made })
    }

    async fn make(&self, session: &Client, anew: bool) -> Result<(), tokio_postgres::Error> {
        let name = self.qualified();
        let mut script = String::from("BEGIN;\n");
        if anew {
            script.push_str(&format!("DROP MATERIALIZED VIEW {name};\n"));
        }
        script.push_str(&format!("CREATE MATERIALIZED VIEW {name} AS\n{};\n", self.definition.trim().trim_end_matches(';')));
        script.push_str(&format!("COMMENT ON MATERIALIZED VIEW {name} IS '{}';\n", self.mark().replace('\'', "''")));
        let unique: Vec<String> = self.unique.iter().map(|column| quote(column)).collect();
        script.push_str(&format!("CREATE UNIQUE INDEX ON {name} ({});\n", unique.join(", ")));
        for index in &self.indexes {
            script.push_str(&format!("{index};\n"));
        }
        for reader in &self.readers {
            script.push_str(&format!("GRANT SELECT ON {name} TO {};\n", quote(reader)));
        }
        script.push_str("COMMIT");
        let made = session.batch_execute(&script).await;
        if made.is_err() {
            // A failure means that the connection is gone, and the transaction with it.
            drop(session.batch_execute("ROLLBACK").await);
        }
        made
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
