//! Replica identities of Lockstep's own tables: as soon as anybody publishes all tables of the target's database, PostgreSQL refuses to
//! update or delete rows of a table that has none.

use std::time::Duration;

use lockstep_connect::{LockTurns, Session};
use lockstep_plan::emit::replica_identity;
use lockstep_plan::quote;
use tokio_postgres::error::SqlState;

/// How long a table's readers are waited for; what has none then gets one at the next set-up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tables of ours that are logged and have no identity: no primary key, an index that is gone, or none asked for.
const LACKING: &str = "SELECT n.nspname::text, c.relname::text
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p'
      AND (n.nspname = 'lockstep' OR (n.nspname, c.relname) IN (SELECT p.table_schema, p.name FROM lockstep.projection AS p))
      AND NOT CASE c.relreplident
          WHEN 'f' THEN true
          WHEN 'd' THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid)
          WHEN 'i' THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid)
          ELSE false END";

/// Gives an identity to every table that was made without one.
///
/// # Errors
/// A statement failed.
pub(crate) async fn give(target: &Session) -> Result<(), tokio_postgres::Error> {
    for row in &target.query(LACKING, &[]).await? {
        let (schema, name): (&str, &str) = (row.get(0), row.get(1));
        let mut turns = LockTurns::new(format!("giving {schema}.{name} a replica identity"), &[schema], Some(PATIENCE));
        loop {
            let alter = replica_identity(&quote::qualified(schema, name));
            let Err(error) = target.batch_execute(&format!("BEGIN; {}; {alter}; COMMIT", turns.setting())).await else { break };
            target.batch_execute("ROLLBACK").await?;
            if turns.again(target, error.code().map(SqlState::code)).await {
                continue;
            }
            if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
                return Err(error);
            }
            tracing::warn!(table = format!("{schema}.{name}"), "has no replica identity yet: somebody reads it all the time");
            break;
        }
    }
    Ok(())
}
