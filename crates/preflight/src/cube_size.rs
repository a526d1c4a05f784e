//! Whether a projection's facets have so many combinations that summing over them wins nothing over counting, by PostgreSQL's estimates.

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::quote;

use crate::report::Preflight;

/// A cube of more rows than this share of the projection's is no cube.
const SHARE_MAX: f64 = 0.1;

/// What is smaller is nobody's concern, and its estimate is a guess.
const LEAST_ROWS: f64 = 10_000.0;

/// Warns of facets that have too many combinations.
pub(crate) async fn look(config: &Config, source: &Session, preflight: &mut Preflight) {
    for projection in config.projections.iter().filter(|projection| !projection.facets.is_empty()) {
        // What reads other projections is known on the target only.
        let sql = projection.sql.trim().trim_end_matches(';');
        let columns: Vec<String> = projection.facets.iter().map(|column| quote::identifier(column)).collect();
        let groups = format!("SELECT FROM (\n{sql}\n) AS t GROUP BY {}", columns.join(", "));
        let estimates = (rows(source, sql).await, rows(source, &groups).await);
        let (Ok(rows), Ok(groups)) = estimates else {
            tracing::debug!(projection = projection.name, "the size of its cube is not estimated");
            continue;
        };
        if rows >= LEAST_ROWS && groups > rows * SHARE_MAX {
            preflight.warn(
                format!("projection {}", projection.name),
                format!("its facets have about {groups:.0} combinations for {rows:.0} rows: summing over them wins little"),
                "name fewer facets, of few values; what is filtered by other columns is counted",
            );
        }
    }
}

async fn rows(source: &Session, query: &str) -> Result<f64, tokio_postgres::Error> {
    let row = source.query_one(&format!("EXPLAIN (FORMAT JSON) {query}"), &[]).await?;
    let plan: serde_json::Value = row.get(0);
    Ok(plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or_default())
}
