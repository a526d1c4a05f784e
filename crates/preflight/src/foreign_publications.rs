//! What others do in the target's database that concerns Lockstep's tables.

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::quote;

use crate::report::Preflight;

/// Tells of publications that take Lockstep's tables with them, and what that costs.
///
/// # Errors
/// The catalogs cannot be read.
pub(crate) async fn publications(
    config: &Config,
    target: &Session,
    preflight: &mut Preflight,
) -> Result<(), tokio_postgres::Error> {
    // Since PostgreSQL 15 a schema can be published as a whole.
    let by_schema: bool =
        target.query_one("SELECT to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL", &[]).await?.get(0);
    let whole_schemas = "SELECT p.pubname::text, 'schema ' || n.nspname FROM pg_publication AS p
        JOIN pg_publication_namespace AS s ON s.pnpubid = p.oid JOIN pg_namespace AS n ON n.oid = s.pnnspid
        WHERE n.nspname IN ('lockstep', $1)";
    let query = format!(
        "SELECT pubname::text, 'all tables' FROM pg_publication WHERE puballtables AND $1::text IS NOT NULL{} ORDER BY 1, 2",
        if by_schema { format!(" UNION ALL {whole_schemas}") } else { String::new() }
    );
    for row in &target.query(&query, &[&config.schema]).await? {
        let (name, what): (&str, &str) = (row.get(0), row.get(1));
        preflight.warn(
            "target",
            format!(
                "publication {name} publishes {what}, Lockstep's own too: whatever the batches write to read models, hidden state and \
                 metadata is decoded and sent to its subscribers as well, several times what the application writes"
            ),
            format!(
                "publish the application's tables only: DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE …, or FOR TABLES IN SCHEMA … (15 and later)",
                quote::identifier(name)
            ),
        );
    }
    Ok(())
}
