//! The target's own metadata tables: made, and brought up to date, by sqlx.
//!
//! ```text
//!   nothing there ──► every migration in one transaction: who waits for the set-up sees all of it or nothing
//!   out of date   ──► one transaction a migration, each in short turns: it waits for a lock a moment only, and tries again
//!   up to date    ──► history compared, nothing locked
//! ```

mod history;
mod options;

use anyhow::Context as _;
use lockstep_connect::{LockTurns, Session, Settings};
use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection};

use history::{HISTORY, take_over};

/// Everything in `migrations/`.
static MIGRATIONS: Migrator = Migrator { table_name: std::borrow::Cow::Borrowed(HISTORY), ..sqlx::migrate!("../../migrations") };

/// What is to be done to be up to date.
enum Todo {
    Nothing,
    /// The version to go to.
    Next(i64),
    Everything,
}

/// Makes the target's own metadata tables, or brings them up to date. The caller holds the writer's lock.
///
/// # Errors
/// The target cannot be reached, a statement fails, or the tables are those of a newer version.
pub(crate) async fn migrate(settings: &Settings, target: &Session) -> anyhow::Result<()> {
    let mut connection = options::connect(settings).await.context("target")?;
    let new_turns = || LockTurns::new("an upgrade of lockstep's own tables", &["lockstep"], None);
    let mut turns = new_turns();
    loop {
        match turn(&mut connection, &turns.setting()).await {
            Ok(true) => break,
            Ok(false) => turns = new_turns(),
            Err(error) => {
                if !turns.again(target, sqlstate(&error).as_deref()).await {
                    return Err(explain(error));
                }
            }
        }
    }
    connection.close().await?;
    Ok(())
}

/// Does one transaction's worth; true when there is nothing left to do.
async fn turn(connection: &mut PgConnection, lock_timeout: &str) -> Result<bool, MigrateError> {
    let todo = todo(connection).await?;
    let to = match todo {
        Todo::Nothing => return Ok(true),
        Todo::Next(version) => Some(version),
        Todo::Everything => None,
    };
    let mut transaction = connection.begin().await?;
    transaction.execute(sqlx::AssertSqlSafe(lock_timeout.to_owned())).await?;
    // IF NOT EXISTS would ask for the privilege to create schemas even where the schema is there.
    if sqlx::query("SELECT FROM pg_namespace WHERE nspname = 'lockstep'").fetch_optional(&mut *transaction).await?.is_none() {
        transaction.execute("CREATE SCHEMA lockstep").await?;
    }
    take_over(&mut transaction, &MIGRATIONS).await?;
    // What `run` and `run_to` call; their futures are not `Send` for every lifetime, as the compiler wants it here.
    MIGRATIONS.run_direct(to, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(false)
}

/// Looks, and locks nothing. What does not fit the program's migrations is told by the run.
async fn todo(connection: &mut PgConnection) -> Result<Todo, MigrateError> {
    let applied = if exists(connection, HISTORY).await? {
        connection.list_applied_migrations(HISTORY).await?
    } else if history::is_earlier(connection).await? {
        history::earlier(connection, &MIGRATIONS).await?
    } else {
        return Ok(Todo::Everything);
    };
    let is_applied = |version: i64| applied.iter().any(|applied| applied.version == version);
    if let Some(next) = MIGRATIONS.iter().find(|migration| !is_applied(migration.version)) {
        return Ok(Todo::Next(next.version));
    }
    let fits = applied.len() == MIGRATIONS.iter().count()
        && MIGRATIONS
            .iter()
            .all(|known| applied.iter().any(|row| row.version == known.version && row.checksum == known.checksum));
    if fits && exists(connection, HISTORY).await? { Ok(Todo::Nothing) } else { Ok(Todo::Everything) }
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
