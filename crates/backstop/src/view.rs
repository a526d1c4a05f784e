//! The materialized view behind a projection: the same query, maintained by PostgreSQL alone.

use std::time::Duration;

use lockstep_connect::LockTurns;
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

    /// Drops a view that is no longer wanted.
    ///
    /// # Errors
    /// Something depends on it, or readers do not let go of it.
    pub async fn drop_named(session: &Client, schema: &str, name: &str) -> Result<(), tokio_postgres::Error> {
        let drop = format!("DROP MATERIALIZED VIEW IF EXISTS {}.{};", quote(schema), quote(name));
        in_turns(session, schema, name, &drop).await
    }

    /// Makes it under another name and puts it in the place of the one that is there, whose readers go on until that moment.
    async fn make(&self, session: &Client, anew: bool) -> Result<(), tokio_postgres::Error> {
        let (name, coming) = (self.qualified(), format!("{}.{}", quote(&self.schema), quote(&format!("{}{COMING}", self.name))));
        let unique: Vec<String> = self.unique.iter().map(|column| quote(column)).collect();
        let mut script = format!(
            "DROP MATERIALIZED VIEW IF EXISTS {coming};
             CREATE MATERIALIZED VIEW {coming} AS\n{};
             COMMENT ON MATERIALIZED VIEW {coming} IS '{UNFINISHED}';
             CREATE UNIQUE INDEX ON {coming} ({});",
            self.definition.trim().trim_end_matches(';'),
            unique.join(", ")
        );
        // A role that was dropped keeps nobody else from reading.
        let there = session.query("SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)", &[&self.readers]).await?;
        for reader in there.iter().map(|row| row.get::<_, &str>(0)) {
            script.push_str(&format!("\nGRANT SELECT ON {coming} TO {};", quote(reader)));
        }
        in_transaction(session, &script).await?;
        let drop_old = if anew { format!("DROP MATERIALIZED VIEW {name};") } else { String::new() };
        let swap = format!("{drop_old} ALTER MATERIALIZED VIEW {coming} RENAME TO {};", quote(&self.name));
        in_turns(session, &self.schema, &self.name, &swap).await?;
        // Their names were the old view's. They lock no reader out; until the last is there, the view counts as unfinished.
        let mut script = self.indexes.iter().fold(String::new(), |script, index| format!("{script}{index};\n"));
        script.push_str(&format!("COMMENT ON MATERIALIZED VIEW {name} IS '{}';", self.mark().replace('\'', "''")));
        in_transaction(session, &script).await
    }
}

/// The end of a view's name while it is made.
const COMING: &str = "__new";

/// The comment of a view that lacks something; whoever looks for ours finds it by its beginning.
const UNFINISHED: &str = "lockstep backstop unfinished";

/// How long a view's readers are waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs a script that locks readers out, while it keeps none waiting.
async fn in_turns(session: &Client, schema: &str, name: &str, script: &str) -> Result<(), tokio_postgres::Error> {
    let mut turns = LockTurns::new(format!("replacing the view {name}"), &[schema], Some(PATIENCE));
    loop {
        let done = in_transaction(session, &format!("{};\n{script}", turns.setting())).await;
        let Err(error) = done else { return Ok(()) };
        if !turns.again(session, error.code().map(tokio_postgres::error::SqlState::code)).await {
            return Err(error);
        }
    }
}

async fn in_transaction(session: &Client, script: &str) -> Result<(), tokio_postgres::Error> {
    let done = session.batch_execute(&format!("BEGIN;\n{script}\nCOMMIT")).await;
    if done.is_err() {
        // A failure means that the connection is gone, and the transaction with it.
        drop(session.batch_execute("ROLLBACK").await);
    }
    done
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
