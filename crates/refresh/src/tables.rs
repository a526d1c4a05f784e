//! The tables in the target: creating, registering, granting, dropping.

use std::time::Duration;

use lockstep_connect::LockTurns;
use lockstep_plan::{Maintenance, Plan, emit, quote};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::status::ProjectionState;

/// What the metadata knows about a projection.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// The fingerprint of its definition.
    pub fingerprint: String,
    /// The schema of its table.
    pub schema: String,
    /// Its hidden tables, unqualified.
    pub state_tables: Vec<String>,
    /// Its state.
    pub state: ProjectionState,
    /// Rows in its table.
    pub rows: i64,
    /// How far the build has come.
    pub build_position: Option<Vec<String>>,
    /// Up to where rows after that position may be there.
    pub build_until: Option<Vec<String>>,
    /// Whether the configured indexes exist.
    pub indexes_built: bool,
    /// Whether it has ever been live.
    pub was_built: bool,
    /// The projection that it is a hidden part of.
    pub part_of: Option<String>,
    /// Whether it is a new version that has not taken the old one's place yet.
    pub in_making: bool,
}

/// Every registered projection.
///
/// # Errors
/// The query failed.
pub async fn load_registered(target: &Client) -> Result<Vec<Registered>, tokio_postgres::Error> {
    let rows = target
        .query(
            "SELECT name, fingerprint, table_schema, state_tables, state, row_count, build_position, indexes_built, built_at IS NOT NULL, part_of,
                    replaces IS NOT NULL, build_until
             FROM lockstep.projection ORDER BY name",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Registered {
            name: row.get(0),
            fingerprint: row.get(1),
            schema: row.get(2),
            state_tables: row.get(3),
            state: ProjectionState::from_name(row.get(4)).unwrap_or(ProjectionState::Registered),
            rows: row.get(5),
            build_position: row.get(6),
            indexes_built: row.get(7),
            was_built: row.get(8),
            part_of: row.get(9),
            in_making: row.get(10),
            build_until: row.get(11),
        })
        .collect())
}

/// Creates a projection's tables and registers it, in one transaction.
///
/// # Errors
/// A statement failed; nothing is left behind.
pub async fn register(
    target: &mut Client,
    plan: &Plan,
    schema: &str,
    group: &str,
    part_of: Option<&str>,
    fingerprint: &str,
) -> Result<Registered, tokio_postgres::Error> {
    let transaction = target.transaction().await?;
    // IF NOT EXISTS would ask for the privilege to create schemas even where the schema is there.
    if transaction.query_opt("SELECT FROM pg_namespace WHERE nspname = $1", &[&schema]).await?.is_none() {
        transaction.batch_execute(&format!("CREATE SCHEMA {}", quote::identifier(schema))).await?;
    }
    let mut statements = emit::create_table(plan, schema);
    statements.push(emit::add_comment(plan, schema));
    let mut state_tables = Vec::new();
    for state in plan.state_tables() {
        statements.extend(emit::create_state_table(state, "lockstep"));
        state_tables.push(state.name.clone());
    }
    if let Maintenance::Grouped(grouped) = &plan.maintenance
        && let Some(accumulators) = &grouped.accumulators
    {
        statements.extend(emit::accumulator_indexes(grouped, accumulators, "lockstep"));
    }
    for statement in &statements {
        transaction.batch_execute(statement).await?;
    }
    let relations: Vec<String> = plan.relations.iter().map(lockstep_plan::facts::Relation::label).collect();
    transaction
        .execute(
            "INSERT INTO lockstep.projection (name, group_name, kind, definition, fingerprint, table_schema, state_tables, relations, part_of)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[&plan.projection, &group, &plan.kind(), &plan.definition, &fingerprint, &schema, &state_tables, &relations, &part_of],
        )
        .await?;
    transaction.commit().await?;
    Ok(Registered {
        name: plan.projection.clone(),
        fingerprint: fingerprint.to_owned(),
        schema: schema.to_owned(),
        state_tables,
        state: ProjectionState::Registered,
        rows: 0,
        build_position: None,
        build_until: None,
        indexes_built: false,
        was_built: false,
        part_of: part_of.map(str::to_owned),
        in_making: false,
    })
}

/// Drops a projection's tables and forgets it. `keep_table` leaves the read model itself. Readers never wait longer than a turn.
///
/// # Errors
/// A statement failed, or readers did not let go within `patience`; nothing is changed then.
pub async fn drop_projection(
    target: &mut Client,
    registered: &Registered,
    keep_table: bool,
    patience: Option<Duration>,
) -> Result<(), tokio_postgres::Error> {
    let schemas = [registered.schema.as_str(), "lockstep"];
    let mut turns = LockTurns::new(format!("dropping {}", registered.name), &schemas, patience);
    loop {
        let dropped = drop_once(target, registered, keep_table, &turns.setting()).await;
        let Err(error) = dropped else { return Ok(()) };
        if !turns.again(target, error.code().map(SqlState::code)).await {
            return Err(error);
        }
    }
}

async fn drop_once(
    target: &mut Client,
    registered: &Registered,
    keep_table: bool,
    lock_timeout: &str,
) -> Result<(), tokio_postgres::Error> {
    let transaction = target.transaction().await?;
    transaction.batch_execute(lock_timeout).await?;
    let table = quote::qualified(&registered.schema, &registered.name);
    drop_views(&transaction, &registered.schema, &registered.name, &table).await?;
    if keep_table {
        transaction
            .batch_execute(&format!("COMMENT ON TABLE {table} IS 'left behind by lockstep; no longer maintained'"))
            .await?;
    } else {
        transaction.batch_execute(&format!("DROP TABLE IF EXISTS {table}")).await?;
    }
    for state_table in &registered.state_tables {
        transaction.batch_execute(&format!("DROP TABLE IF EXISTS {}", quote::qualified("lockstep", state_table))).await?;
    }
    transaction.execute("DELETE FROM lockstep.projection WHERE name = $1", &[&registered.name]).await?;
    transaction.commit().await
}

/// How long emptying waits for readers; then rows are deleted one by one, which keeps nobody waiting.
const EMPTYING_MAX_MS: u32 = 100;

/// Empties tables, inside a transaction.
///
/// # Errors
/// A statement failed.
pub async fn empty(target: &Client, tables: &[String]) -> Result<(), tokio_postgres::Error> {
    let delete: String = tables.iter().map(|table| format!("DELETE FROM {table};")).collect();
    let script = format!(
        "DO $lockstep$ DECLARE before text := current_setting('lock_timeout'); BEGIN
             PERFORM set_config('lock_timeout', '{EMPTYING_MAX_MS}', true);
             TRUNCATE {};
             PERFORM set_config('lock_timeout', before, true);
         EXCEPTION WHEN lock_not_available OR deadlock_detected THEN {delete}
         END $lockstep$",
        tables.join(", ")
    );
    target.batch_execute(&script).await
}

/// Drops the backstop's view of a projection, and those of projections that read it: they are made again when they are due.
///
/// # Errors
/// A statement failed: something else depends on a view.
pub async fn drop_views(
    transaction: &tokio_postgres::Transaction<'_>,
    schema: &str,
    name: &str,
    table: &str,
) -> Result<(), tokio_postgres::Error> {
    let own = format!("mv_{name}");
    let views = transaction
        .query(
            "SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.relkind = 'm' AND obj_description(c.oid, 'pg_class') LIKE 'lockstep backstop %'
               AND ((n.nspname = $1 AND c.relname = $2)
                    OR EXISTS (SELECT FROM pg_rewrite AS r JOIN pg_depend AS d ON d.objid = r.oid
                               WHERE r.ev_class = c.oid AND d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass($3)))",
            &[&schema, &own, &table],
        )
        .await?;
    for view in &views {
        transaction.batch_execute(&format!("DROP MATERIALIZED VIEW {}", quote::qualified(view.get(0), view.get(1)))).await?;
    }
    Ok(())
}

/// Lets roles read the read models and wait for positions; roles that do not exist are passed over.
///
/// # Errors
/// A grant is refused.
pub async fn grant(target: &Client, schema: &str, tables: &[String], readers: &[String]) -> Result<(), tokio_postgres::Error> {
    let views = target
        .query(
            "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.relkind = 'm' AND n.nspname = $1 AND obj_description(c.oid, 'pg_class') LIKE 'lockstep backstop %'
               AND c.relname::text IN (SELECT 'mv_' || name FROM unnest($2::text[]) AS name)",
            &[&schema, &tables],
        )
        .await?;
    let views: Vec<&str> = views.iter().map(|row| row.get(0)).collect();
    for reader in readers {
        // A role that was dropped keeps nobody else from reading.
        if target.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[reader]).await?.is_none() {
            continue;
        }
        let role = quote::identifier(reader);
        let mut statements = format!(
            "GRANT USAGE ON SCHEMA {}, lockstep TO {role};\n\
             GRANT SELECT ON lockstep.checkpoint, lockstep.projection, lockstep.change, lockstep.forgotten, lockstep.mv_refresh_log, lockstep.status TO {role};",
            quote::identifier(schema)
        );
        for table in tables.iter().map(String::as_str).chain(views.iter().copied()) {
            statements.push_str(&format!("\nGRANT SELECT ON {} TO {role};", quote::qualified(schema, table)));
        }
        target.batch_execute(&statements).await?;
    }
    Ok(())
}
