//! Giving a table another name, with its indexes.

use lockstep_plan::quote;
use tokio_postgres::Transaction;

/// Renames a table and its indexes.
pub(super) async fn rename_table(
    transaction: &Transaction<'_>,
    schema: &str,
    from: &str,
    to: &str,
    index_name: impl Fn(&str) -> String,
) -> anyhow::Result<()> {
    let table = quote::qualified(schema, from);
    let rows = transaction
        .query(
            "SELECT c.relname::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = $1::text::regclass",
            &[&table],
        )
        .await?;
    for row in &rows {
        let before: &str = row.get(0);
        let after = index_name(before);
        let taken = transaction.query_one("SELECT to_regclass($1) IS NOT NULL", &[&quote::qualified(schema, &after)]).await?;
        // Rather an odd name than a version that waits for ever.
        if before != after && !taken.get::<_, bool>(0) {
            let statement = format!("ALTER INDEX {} RENAME TO {}", quote::qualified(schema, before), quote::identifier(&after));
            transaction.batch_execute(&statement).await?;
        }
    }
    transaction.batch_execute(&format!("ALTER TABLE {table} RENAME TO {}", quote::identifier(to))).await?;
    Ok(())
}
