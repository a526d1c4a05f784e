//! The target's own metadata tables: made, and brought up to date, by sqlx.
//!
//! ```text
//!   nothing there ──► every migration in one transaction: who waits for the set-up sees all of it or nothing
//!   out of date   ──► one transaction a migration, each in short turns: it waits for a lock a moment only, and tries again
//!   up to date    ──► history compared, nothing locked
//! ```

mod history;
mod options;

use std::time::Duration;

use anyhow::Context as _;
use lockstep_connect::Settings;
use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection};

use history::{HISTORY, take_over};

/// Everything in `migrations/`.
static MIGRATIONS: Migrator = Migrator { table_name: std::borrow::Cow::Borrowed(HISTORY), ..sqlx::migrate!("../../migrations") };

/// How long a migration waits for a lock: whoever comes after it waits as long.
const LOCK_MAX: Duration = Duration::from_millis(50);

/// Pauses between two turns: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often to say who stands in the way.
const TELL_EVERY: Duration = Duration::from_secs(5);

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
pub(crate) async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let mut connection = options::connect(settings).await.context("target")?;
    let began = tokio::time::Instant::now();
    let (mut pause, mut told) = (PAUSE_MIN, began);
    loop {
        match turn(&mut connection).await {
            Ok(true) => break,
            Ok(false) => pause = PAUSE_MIN,
            Err(error) if waits_for_lock(&error) => {
                if told.elapsed() >= TELL_EVERY {
                    told = tokio::time::Instant::now();
                    tell_blockers(&mut connection).await;
                }
                tokio::time::sleep(pause).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
            Err(error) => return Err(explain(error)),
        }
    }
    connection.close().await?;
    Ok(())
}

/// Does one transaction's worth; true when there is nothing left to do.
async fn turn(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let todo = todo(connection).await?;
    let mut transaction = match todo {
        Todo::Nothing => return Ok(true),
        Todo::Next(_) | Todo::Everything => connection.begin().await?,
    };
    let setting = format!("SET LOCAL lock_timeout = {}", LOCK_MAX.as_millis());
    transaction.execute(sqlx::AssertSqlSafe(setting)).await?;
    // IF NOT EXISTS would ask for the privilege to create schemas even where the schema is there.
    if sqlx::query("SELECT FROM pg_namespace WHERE nspname = 'lockstep'").fetch_optional(&mut *transaction).await?.is_none() {
        transaction.execute("CREATE SCHEMA lockstep").await?;
    }
    take_over(&mut transaction, &MIGRATIONS).await?;
    let to = match todo {
        Todo::Next(version) => Some(version),
        Todo::Nothing | Todo::Everything => None,
    };
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

/// Lock not available, deadlock.
fn waits_for_lock(error: &MigrateError) -> bool {
    sqlstate(error).is_some_and(|code| code == "55P03" || code == "40P01")
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

/// Names the sessions that have locks on the metadata.
async fn tell_blockers(connection: &mut PgConnection) {
    let query = "SELECT DISTINCT a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), coalesce(a.state, ''),
                        round(extract(epoch FROM clock_timestamp() - a.xact_start))::bigint
                 FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 JOIN pg_stat_activity AS a ON a.pid = l.pid
                 WHERE n.nspname = 'lockstep' AND l.granted AND l.pid <> pg_backend_pid()
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 ORDER BY 5 DESC NULLS LAST LIMIT 5";
    match sqlx::query_as::<_, (i32, String, String, String, Option<i64>)>(query).fetch_all(connection).await {
        Ok(rows) => {
            for (pid, application, user, state, seconds) in rows {
                tracing::warn!(
                    pid,
                    application,
                    user,
                    state,
                    seconds,
                    "an upgrade of lockstep's tables waits for this transaction"
                );
            }
        }
        Err(error) => tracing::debug!(%error, "looking who stands in the way of an upgrade"),
    }
}
