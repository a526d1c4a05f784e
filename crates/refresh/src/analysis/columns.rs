//! The result's columns.

use lockstep_plan::facts::OutputColumn;
use tokio_postgres::Client;

use super::error::AnalysisError;
use super::types;

pub(super) async fn output_columns(client: &Client, view: u32) -> Result<Vec<OutputColumn>, AnalysisError> {
    let rows = client
        .query(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
                    CASE WHEN a.attcollation NOT IN (0, t.typcollation)
                         THEN quote_ident(n.nspname) || '.' || quote_ident(c.collname) END
             FROM pg_attribute a
             JOIN pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_collation c ON c.oid = a.attcollation
             LEFT JOIN pg_namespace n ON n.oid = c.collnamespace
             WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum",
            &[&view],
        )
        .await?;
    let mut columns = Vec::with_capacity(rows.len());
    for row in rows {
        let type_name: String = row.get(1);
        columns.push(OutputColumn {
            name: row.get(0),
            hashable: types::hashes(client, &type_name).await?,
            comparable: types::compares(client, &type_name).await?,
            base_type: types::type_facts(client, &type_name).await?.base,
            type_name,
            collation: row.get(2),
        });
    }
    Ok(columns)
}
