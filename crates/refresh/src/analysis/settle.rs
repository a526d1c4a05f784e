//! Orders made total: PostgreSQL says whether the query that has them is one with the same columns.

use lockstep_plan::chains;
use tokio_postgres::Client;

use super::columns::output_columns;
use super::definition::{Analysed, StandIn, tables};
use super::error::AnalysisError;

/// The temporary view's name.
const VIEW: &str = "lockstep_settled";

/// Makes a query's orders total. Where PostgreSQL does not take the result (a type has no order), the query stays as it is. The
/// transaction is the analysis's: the search path is empty, the stand-ins are there.
pub(super) async fn settle(client: &Client, analysed: &mut Analysed, stand_ins: &[StandIn]) -> Result<(), AnalysisError> {
    let Some(settled) = lockstep_plan::settle(&analysed.query) else { return Ok(()) };
    analysed.ties = settled.ties;
    if settled.sql == analysed.query.sql {
        return Ok(());
    }
    client.batch_execute("SAVEPOINT settled").await?;
    match canonical(client, &settled.sql, analysed, stand_ins).await {
        Ok(Some(sql)) => analysed.query.sql = sql,
        Ok(None) => analysed.ties.iter_mut().for_each(|tie| tie.appended.clear()),
        Err(error) if error.sqlstate.is_some() => {
            client.batch_execute("ROLLBACK TO SAVEPOINT settled").await?;
            analysed.ties.iter_mut().for_each(|tie| tie.appended.clear());
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The query as PostgreSQL prints it; `None` if its columns are others.
async fn canonical(
    client: &Client,
    sql: &str,
    analysed: &Analysed,
    stand_ins: &[StandIn],
) -> Result<Option<String>, AnalysisError> {
    let tables = tables(stand_ins);
    let failed = |error: String| AnalysisError::definite(error, "simplify the query");
    let over_stand_ins =
        if tables.is_empty() { sql.to_owned() } else { chains::stand_ins_of_tables(sql, &tables).map_err(failed)? };
    client.execute(&format!("CREATE TEMPORARY VIEW {VIEW} AS {over_stand_ins}"), &[]).await?;
    let view: u32 = client.query_one("SELECT $1::text::regclass::oid", &[&format!("pg_temp.{VIEW}")]).await?.get(0);
    if output_columns(client, view).await? != analysed.query.columns {
        return Ok(None);
    }
    let printed: String = client.query_one("SELECT pg_get_viewdef($1::oid)", &[&view]).await?.get(0);
    let printed = if tables.is_empty() { printed } else { chains::tables_of_stand_ins(&printed, &tables).map_err(failed)? };
    Ok(Some(printed))
}
