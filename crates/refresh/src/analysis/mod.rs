//! What the source's catalogs say about a defining query.
//!
//! PostgreSQL resolves the names: the query becomes a temporary view inside a transaction that is rolled back, and
//! `pg_get_viewdef`, `pg_depend` and the stored rule tell the rest. Nothing is parsed here.

mod columns;
mod definition;
mod error;
mod functions;
mod keyless;
mod locks;
mod meaning;
mod reached;
mod relations;
mod settle;
mod types;

use lockstep_plan::facts::Query;
use lockstep_plan::{chains, quote};
use tokio_postgres::Client;

use columns::output_columns;
pub use definition::{Analysed, Definition, StandIn};
use definition::{EMPTY_SEARCH_PATH, VIEW, make_stand_ins, tables};
pub use error::AnalysisError;
pub use meaning::{Dependencies, Dependency, Meaning, dependencies, meanings};
pub use types::{is_hashable, type_facts};

/// Whether the server knows a time zone by that name.
///
/// # Errors
/// The query failed.
pub async fn is_time_zone(client: &Client, name: &str) -> Result<bool, tokio_postgres::Error> {
    let known = "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE lower(name) = lower($1))";
    Ok(name == "UTC" || client.query_one(known, &[&name]).await?.get(0))
}

/// Analyses a definition. Changes nothing: everything happens in a transaction that is rolled back.
///
/// # Errors
/// The query does not parse, names something that does not exist, reads something that cannot be followed, or the role may not
/// read it.
pub async fn analyse(client: &Client, definition: &Definition, stand_ins: &[StandIn]) -> Result<Analysed, AnalysisError> {
    client.batch_execute("BEGIN").await?;
    let mut result = analyse_in_transaction(client, definition, stand_ins).await.map(|query| Analysed {
        written: query.sql.clone(),
        query,
        ties: Vec::new(),
    });
    if let (Ok(analysed), false) = (&mut result, definition.settled) {
        result = settle::settle(client, analysed, stand_ins).await.map(|()| analysed.clone());
    }
    let rolled_back = client.batch_execute("ROLLBACK").await;
    let analysed = result?;
    rolled_back?;
    Ok(analysed)
}

async fn analyse_in_transaction(client: &Client, definition: &Definition, stand_ins: &[StandIn]) -> Result<Query, AnalysisError> {
    make_stand_ins(client, stand_ins).await?;
    let sql = without_trailing_semicolon(&definition.sql);
    if sql.is_empty() {
        return Err(AnalysisError::definite("the query is empty", "write a SELECT"));
    }
    // A time written without a zone in the query means this one.
    client.batch_execute(&format!("SET LOCAL TimeZone = {}", quote::literal(&definition.time_zone))).await?;
    let prefix = format!("CREATE TEMPORARY VIEW {VIEW} AS ");
    // The extended protocol: it refuses more than one statement.
    client
        .execute(&format!("{prefix}{sql}"), &[])
        .await
        .map_err(|error| AnalysisError::in_query(&error, prefix.chars().count()))?;
    let view: u32 = client.query_one("SELECT $1::text::regclass::oid", &[&format!("pg_temp.{VIEW}")]).await?.get(0);
    // With an empty search path every name outside pg_catalog prints qualified: types, collations, the query itself.
    client.batch_execute(EMPTY_SEARCH_PATH).await?;
    let columns = output_columns(client, view).await?;
    let relations = relations::read(client, view, stand_ins).await?;
    let views = relations::views(client, view).await?;
    locks::refuse(&definition.sql, &views)?;
    let functions = functions::read(client, view).await?;
    locks::refuse_writers(client, view, &definition.sql, &functions).await?;
    let reads_clock = functions::reads_clock(client, view).await?;
    // With an empty search path every name outside pg_catalog prints qualified.
    let canonical: String =
        client.query_one("SELECT pg_get_viewdef($1::oid) FROM set_config('search_path', '', true)", &[&view]).await?.get(0);
    let tables = tables(stand_ins);
    let sql = if tables.is_empty() {
        canonical
    } else {
        chains::tables_of_stand_ins(&canonical, &tables).map_err(|error| AnalysisError::definite(error, "simplify the query"))?
    };
    Ok(Query {
        projection: definition.name.clone(),
        sql,
        columns,
        relations,
        views,
        functions,
        reads_clock,
        declared_key: definition.key.clone(),
    })
}

fn without_trailing_semicolon(sql: &str) -> &str {
    // Leading space stays: error positions count from the start of the user's text.
    sql.trim_end().trim_end_matches(';').trim_end()
}

/// The types of an internal query's result as `CREATE TABLE` wants them, domains and collations included (a result's own
/// description names a domain's base type and no collation). `comparable` names columns that must have an equality.
///
/// # Errors
/// The query does not make a view: a column has a pseudo-type (`ROW(…)`), or a column that must be comparable is not.
pub async fn result_types(
    client: &Client,
    sql: &str,
    comparable: &[String],
    stand_ins: &[StandIn],
) -> Result<Vec<String>, AnalysisError> {
    client.batch_execute("BEGIN").await?;
    let types = types_in_transaction(client, sql, comparable, stand_ins).await;
    let rolled_back = client.batch_execute("ROLLBACK").await;
    let types = types?;
    rolled_back?;
    Ok(types)
}

async fn types_in_transaction(
    client: &Client,
    sql: &str,
    comparable: &[String],
    stand_ins: &[StandIn],
) -> Result<Vec<String>, AnalysisError> {
    make_stand_ins(client, stand_ins).await?;
    let tables = tables(stand_ins);
    let sql = if tables.is_empty() {
        sql.to_owned()
    } else {
        chains::stand_ins_of_tables(sql, &tables).map_err(|error| AnalysisError::definite(error, ""))?
    };
    client.execute(&format!("CREATE TEMPORARY VIEW {VIEW} AS {sql}"), &[]).await?;
    let view: u32 = client.query_one("SELECT $1::text::regclass::oid", &[&format!("pg_temp.{VIEW}")]).await?.get(0);
    client.batch_execute(EMPTY_SEARCH_PATH).await?;
    let columns = output_columns(client, view).await?;
    if let Some(column) = columns.iter().find(|column| comparable.contains(&column.name) && !column.hashable) {
        return Err(AnalysisError::definite(format!("a column of type {} cannot be grouped", column.type_name), ""));
    }
    Ok(columns
        .into_iter()
        .map(|column| match column.collation {
            Some(collation) => format!("{} COLLATE {collation}", column.type_name),
            None => column.type_name,
        })
        .collect())
}

/// One duplicated key of a query, for the message: how many rows, and the key's columns.
///
/// # Errors
/// The query fails.
pub async fn duplicate_key(
    client: &Client,
    query: &str,
    key: &[String],
) -> Result<Option<(i64, Vec<(String, Option<String>)>)>, tokio_postgres::Error> {
    let row = client.query_opt(&lockstep_plan::emit::defining_query_duplicates(query, key), &[]).await?;
    Ok(row.map(|row| {
        let values = key.iter().enumerate().map(|(n, column)| (column.clone(), row.get(n + 1))).collect();
        (row.get(0), values)
    }))
}

/// Whether the role may read a table in full: SELECT, and no row-level security that hides rows from it.
///
/// # Errors
/// The query failed.
pub async fn may_read(client: &Client, schema: &str, name: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let table = quote::qualified(schema, name);
    let row = client
        .query_one(
            "SELECT has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::text::regclass",
            &[&table],
        )
        .await?;
    let mut problems = Vec::new();
    if !row.get::<_, bool>(0) {
        problems.push(format!("no USAGE on schema {schema}"));
    }
    if !row.get::<_, bool>(1) {
        problems.push(format!("no SELECT on {schema}.{name}"));
    }
    if row.get::<_, bool>(2) {
        problems.push(format!("row-level security on {schema}.{name} hides rows from this role"));
    }
    Ok(problems)
}
