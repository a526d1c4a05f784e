//! What is analysed, and what stands for the projections that it reads.

use lockstep_plan::facts::{Query, Relation};
use lockstep_plan::{Tie, chains, quote};
use tokio_postgres::Client;

use super::error::AnalysisError;

/// The temporary view's name.
pub(super) const VIEW: &str = "lockstep_analysis";

/// For the rest of the transaction.
pub(super) const EMPTY_SEARCH_PATH: &str = "SET LOCAL search_path = ''";

/// A projection's definition as configured.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The projection's name.
    pub name: String,
    /// The SELECT.
    pub sql: String,
    /// The declared key.
    pub key: Option<Vec<String>>,
    /// The time zone that the query is computed in.
    pub time_zone: String,
    /// Whether it is a part of a query whose orders are total already.
    pub settled: bool,
}

/// A query as it is maintained.
#[derive(Debug, Clone)]
pub struct Analysed {
    /// The query; its orders are total where that is possible.
    pub query: Query,
    /// The query as it was written, as PostgreSQL prints it: views by their names.
    pub written: String,
    /// Where that made a difference, or would.
    pub ties: Vec<Tie>,
}

/// A projection that others read. While they are analysed a temporary table stands for its table.
#[derive(Debug, Clone)]
pub struct StandIn {
    /// Its name.
    pub projection: String,
    /// Its table as the planner sees it.
    pub relation: Relation,
}

pub(super) async fn make_stand_ins(client: &Client, stand_ins: &[StandIn]) -> Result<(), AnalysisError> {
    for stand_in in stand_ins {
        let columns: Vec<String> = stand_in
            .relation
            .columns
            .iter()
            .map(|column| format!("{} {}", quote::identifier(&column.name), column.type_name))
            .collect();
        let name = quote::identifier(&chains::stand_in(&stand_in.projection));
        client.batch_execute(&format!("CREATE TEMPORARY TABLE {name} ({})", columns.join(", "))).await?;
    }
    Ok(())
}

pub(super) fn tables(stand_ins: &[StandIn]) -> Vec<chains::ProjectionTable> {
    let table = |stand_in: &StandIn| chains::ProjectionTable {
        projection: stand_in.projection.clone(),
        schema: stand_in.relation.schema.clone(),
    };
    stand_ins.iter().map(table).collect()
}
