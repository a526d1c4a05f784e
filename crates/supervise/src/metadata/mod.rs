//! The target's own metadata tables: made, and brought up to date, by sqlx.
//!
//! ```text
//!   nothing there ──► every migration in one transaction: who waits for the set-up sees all of it or nothing
//!   out of date   ──► what is missing in one transaction, which locks all its tables at once, for a moment only, and tries again
//!   up to date    ──► history compared, nothing locked
//! ```

mod history;
pub(crate) mod identities;
mod options;

use anyhow::Context as _;
use lockstep_connect::{LockTurns, Session, Settings};
use sqlx::migrate::{Migrate as _, MigrateError, Migration, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection};

use history::{HISTORY, take_over};

/// Everything in `migrations/`. The writer's lock keeps others out, so sqlx's own would only cost round trips while tables are locked.
static MIGRATIONS: Migrator =
    Migrator { table_name: std::borrow::Cow::Borrowed(HISTORY), locking: false, ..sqlx::migrate!("../../migrations") };

/// Makes the target's own metadata tables, or brings them up to date. The caller holds the writer's lock.
///
/// # Errors
/// The target cannot be reached, a statement fails, or the tables are those of a newer version.
pub async fn migrate(settings: &Settings, target: &Session) -> anyhow::Result<()> {
    let mut connection = options::connect(settings).await.context("target")?;
    let mut turns = LockTurns::new("an upgrade of lockstep's own tables", &["lockstep"], None);
    while let Err(error) = turn(&mut connection, &turns).await {
        if !turns.again(target, sqlstate(&error).as_deref()).await {
            return Err(explain(error));
        }
    }
    connection.close().await?;
    Ok(())
}

async fn turn(connection: &mut PgConnection, turns: &LockTurns) -> Result<(), MigrateError> {
    let Some(missing) = missing(connection).await? else { return Ok(()) };
    let altered = altered(connection, &missing).await?;
    let mut transaction = connection.begin().await?;
    match migrate_in(&mut transaction, &turns.locking(&altered)).await {
        Ok(()) => Ok(transaction.commit().await?),
        Err(error) => {
            // At once: dropped, it would be rolled back, and its locks released, with the next statement.
            transaction.rollback().await?;
            Err(error)
        }
    }
}

/// The tables that migrations alter and that are there.
async fn altered(connection: &mut PgConnection, migrations: &[&Migration]) -> Result<Vec<String>, sqlx::Error> {
    let mut tables: Vec<String> = Vec::new();
    for after in migrations.iter().flat_map(|migration| migration.sql.as_str().split("ALTER TABLE ").skip(1)) {
        let table = after.split([' ', '\n']).next().unwrap_or_default().to_owned();
        if !tables.contains(&table) && exists(connection, &table).await? {
            tables.push(table);
        }
    }
    Ok(tables)
}

async fn migrate_in(transaction: &mut PgConnection, locks: &str) -> Result<(), MigrateError> {
    transaction.execute(sqlx::AssertSqlSafe(locks.to_owned())).await?;
    // IF NOT EXISTS would ask for the privilege to create schemas even where the schema is there.
    if sqlx::query("SELECT FROM pg_namespace WHERE nspname = 'lockstep'").fetch_optional(&mut *transaction).await?.is_none() {
        transaction.execute("CREATE SCHEMA lockstep").await?;
    }
    take_over(transaction, &MIGRATIONS).await?;
    // What `run` calls; its future is not `Send` for every lifetime, as the compiler wants it here.
    MIGRATIONS.run_direct(None, transaction, false).await
}

/// Looks, and locks nothing: the migrations that are missing, or none of them where there is something to be told by the run; nothing
/// where all is up to date.
async fn missing(connection: &mut PgConnection) -> Result<Option<Vec<&'static Migration>>, MigrateError> {
    let has_history = exists(connection, HISTORY).await?;
    let applied = if has_history {
        connection.list_applied_migrations(HISTORY).await?
    } else if history::is_earlier(connection).await? {
        history::earlier(connection, &MIGRATIONS).await?
    } else {
        Vec::new()
    };
    let is_applied = |version: i64| applied.iter().any(|applied| applied.version == version);
    let missing: Vec<&Migration> = MIGRATIONS.iter().filter(|migration| !is_applied(migration.version)).collect();
    let fits = applied.len() == MIGRATIONS.iter().count()
        && MIGRATIONS
            .iter()
            .all(|known| applied.iter().any(|row| row.version == known.version && row.checksum == known.checksum));
    Ok((!(fits && has_history)).then_some(missing))
}

async fn exists(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(connection).await
}

/// SQLSTATE of an error, wherever in a migration it happened.
fn sqlstate(error: &MigrateError) -> Option<String> {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return None };
    Some(cause.as_database_error()?.code()?.into_owned())
}

fn explain(error: MigrateError) -> anyhow::Error {
    match error {
        MigrateError::VersionMissing(version) => anyhow::anyhow!(
            "the target was set up by a newer version of Lockstep (its migration {version} is not known to this one); run that one, or a newer one"
        ),
        MigrateError::VersionMismatch(version) => anyhow::anyhow!(
            "migration {version} of the target is not the one that this program has: it was set up by a version of Lockstep that was never released"
        ),
        other => anyhow::Error::new(other),
    }
}
