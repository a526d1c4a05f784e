//! The tables' definitions.

use crate::model::facts::OutputColumn;
use crate::model::plan::Plan;
use crate::model::quote;
use crate::model::row_key::{RowKey, locator};
use crate::model::state::StateTable;

/// The statements that create a projection's table: exactly the query's columns, and what finds its rows.
pub fn create_table(plan: &Plan, schema: &str) -> Vec<String> {
    let table = quote::qualified(schema, &plan.projection);
    let mut items: Vec<String> = plan.columns.iter().map(column_definition).collect();
    if let RowKey::Primary(columns) = &plan.key {
        items.push(format!("PRIMARY KEY ({})", quote::list(columns)));
    }
    let mut statements = vec![format!("CREATE TABLE {table} (\n  {}\n)", items.join(",\n  "))];
    if !matches!(plan.key, RowKey::Primary(_)) {
        statements.push(replica_identity(&table));
    }
    match &plan.key {
        RowKey::Located(columns) | RowKey::Copies { within: columns } if !columns.is_empty() => {
            statements.push(format!("CREATE INDEX ON {table} (({}))", locator("", columns)));
        }
        RowKey::Primary(_) | RowKey::Located(_) | RowKey::Copies { .. } | RowKey::SingleRow => {}
    }
    if plan.reports_keys && matches!(plan.key, RowKey::Copies { .. }) {
        let columns: Vec<String> = plan.columns.iter().map(|column| column.name.clone()).collect();
        statements.push(format!("CREATE INDEX ON {table} (({}))", locator("", &columns)));
    }
    if !plan.owner.is_empty() {
        statements.push(format!("CREATE INDEX ON {table} ({})", quote::list(&plan.owner)));
    }
    if let Some(columns) = &plan.declared_key {
        statements.push(format!("CREATE UNIQUE INDEX ON {table} ({})", quote::list(columns)));
    }
    statements
}

/// Without an identity PostgreSQL refuses to update a table as soon as anybody publishes all tables of the database.
pub fn replica_identity(table: &str) -> String {
    format!("ALTER TABLE {table} REPLICA IDENTITY FULL")
}

fn column_definition(column: &OutputColumn) -> String {
    format!("{} {}", quote::identifier(&column.name), column.typed())
}

/// The statements that create a table of hidden state. Its columns' types must be known.
pub fn create_state_table(state: &StateTable, schema: &str) -> Vec<String> {
    let table = quote::qualified(schema, &state.name);
    let mut items: Vec<String> = state
        .columns
        .iter()
        .zip(&state.types)
        .map(|(column, type_name)| format!("{} {type_name}", quote::identifier(column)))
        .collect();
    if !state.many_per_key && !state.key.is_empty() {
        items.push(format!("PRIMARY KEY ({})", quote::list(&state.key)));
    }
    let mut statements = vec![format!("CREATE TABLE {table} (\n  {}\n)", items.join(",\n  "))];
    if state.many_per_key || state.key.is_empty() {
        statements.push(replica_identity(&table));
    }
    if state.many_per_key {
        statements.push(format!("CREATE INDEX ON {table} ({})", quote::list(&state.key)));
    }
    if !state.located_by.is_empty() {
        statements.push(format!("CREATE INDEX ON {table} (({}))", locator("", &state.located_by)));
    }
    statements
}

/// Marks a table as ours.
pub fn add_comment(plan: &Plan, schema: &str) -> String {
    format!(
        "COMMENT ON TABLE {} IS {}",
        quote::qualified(schema, &plan.projection),
        quote::literal(&format!("Lockstep projection ({}); written by lockstep only", plan.kind()))
    )
}
