//! The history of migrations, and that of installations made before sqlx kept it.

use std::borrow::Cow;

use sqlx::PgConnection;
use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};

/// The table in which sqlx keeps what has been applied.
pub(super) const HISTORY: &str = "lockstep._sqlx_migrations";

/// A row of the earlier history: version and name. Its other columns are when it was applied, as text, and a checksum of its own kind.
type Earlier = (i32, String);

const EARLIER: &str = "SELECT version, name::text FROM lockstep.migration ORDER BY version";

/// Whether the installation has the earlier history and not sqlx's.
pub(super) async fn is_earlier(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT to_regclass('lockstep.migration') IS NOT NULL AND to_regclass('lockstep._sqlx_migrations') IS NULL",
    )
    .fetch_one(connection)
    .await
}

/// What the earlier history says has been applied, as sqlx would have it. A migration that is not known has no checksum.
pub(super) async fn earlier(connection: &mut PgConnection, known: &Migrator) -> Result<Vec<AppliedMigration>, MigrateError> {
    let rows: Vec<Earlier> = sqlx::query_as(EARLIER).fetch_all(connection).await?;
    let checksum = |(version, name): &Earlier| {
        let same = |migration: &&sqlx::migrate::Migration| {
            migration.version == i64::from(*version) && *migration.description == name.replace('_', " ")
        };
        known.iter().find(same).map_or(Cow::Borrowed(&[][..]), |migration| migration.checksum.clone())
    };
    Ok(rows.iter().map(|row| AppliedMigration { version: i64::from(row.0), checksum: checksum(row) }).collect())
}

/// Turns the earlier history into sqlx's, once. The files have not changed, so theirs are the checksums of what was applied.
pub(super) async fn take_over(transaction: &mut PgConnection, known: &Migrator) -> Result<(), MigrateError> {
    use sqlx::Executor as _;
    use sqlx::migrate::Migrate as _;
    if !is_earlier(transaction).await? {
        return Ok(());
    }
    let applied = earlier(transaction, known).await?;
    transaction.ensure_migrations_table(HISTORY).await?;
    for row in &applied {
        let description = known.iter().find(|migration| migration.version == row.version).map(|found| &*found.description);
        sqlx::query(
            "INSERT INTO lockstep._sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
             SELECT $1, coalesce($2, name), applied_on::timestamptz, true, $3, -1 FROM lockstep.migration WHERE version = $1",
        )
        .bind(row.version)
        .bind(description)
        .bind(&*row.checksum)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.execute("DROP TABLE lockstep.migration").await?;
    Ok(())
}
