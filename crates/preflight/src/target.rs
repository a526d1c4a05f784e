//! The target: its privileges, what is in the way, and whose it is.

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::quote;

use crate::remedy::{By, Remedy, Side};
use crate::report::{Planned, Preflight};
use crate::source::{MAJORS, open};
use crate::{encodings, foreign_publications, limits, ownership, settings, slot};

/// Checks the target; returns the names of the projections registered there.
pub(crate) async fn look(config: &Config, source: &Session, preflight: &mut Preflight) -> Vec<String> {
    let opened;
    let session = match &config.target {
        None => source,
        Some(settings) => match open(settings, "target", preflight).await {
            Some(session) => {
                opened = session;
                &opened
            }
            None => return Vec::new(),
        },
    };
    let looked = async {
        encodings::look(source, session, preflight).await?;
        if config.target.is_some() {
            settings::writable("target", session, preflight).await;
        }
        let registered = target_facts(config, session, preflight).await?;
        super::types::check(config, source, session, preflight).await?;
        Ok::<_, tokio_postgres::Error>(registered)
    };
    match looked.await {
        Ok(registered) => {
            if preflight.passed() || preflight.only_queries_fail() {
                ownership::look(config, source, session, preflight).await;
            }
            if let Err(error) = limits::connections(config, source, session, preflight).await {
                preflight.error("target", lockstep_connect::describe(&error), "pg_roles and pg_database must be readable");
            }
            registered
        }
        Err(error) => {
            preflight.error("target", lockstep_connect::describe(&error), "the target's catalogs must be readable");
            Vec::new()
        }
    }
}

async fn target_facts(
    config: &Config,
    session: &Session,
    preflight: &mut Preflight,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let row = session
        .query_one(
            "SELECT current_setting('server_version_num')::int / 10000,
                    has_database_privilege(current_database(), 'CREATE'),
                    (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1),
                    (SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'lockstep'),
                    pg_is_in_recovery(), has_database_privilege(current_database(), 'TEMP')",
            &[&config.schema],
        )
        .await?;
    let major = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
    if !MAJORS.contains(&major) {
        preflight.error("target", format!("PostgreSQL {major} is not supported"), "supported are 14 to 18");
    }
    if row.get::<_, bool>(4) {
        preflight.error("target", "the server is a standby and cannot be written", "name the primary");
    }
    if config.target.is_some() && !row.get::<_, bool>(5) {
        preflight.error(
            "target",
            "no TEMP privilege: rows from another database are staged in temporary tables",
            Remedy::sql(
                &By::DatabaseOwner(Side::Target),
                [format!(
                    "GRANT TEMPORARY ON DATABASE {0} TO {1}",
                    quote::identifier(config.target_settings().database()),
                    quote::identifier(config.target_settings().user())
                )],
            ),
        );
    }
    let may_create_schemas: bool = row.get(1);
    for (schema, privilege) in [(config.schema.as_str(), row.get::<_, Option<bool>>(2)), ("lockstep", row.get(3))] {
        if !privilege.unwrap_or(may_create_schemas) {
            preflight.error(
                "target",
                format!("no CREATE privilege for schema {schema}"),
                Remedy::sql(
                    &By::Superuser(Side::Target),
                    [format!(
                        "CREATE SCHEMA IF NOT EXISTS {0} AUTHORIZATION {1}",
                        quote::identifier(schema),
                        quote::identifier(config.target_settings().user())
                    )],
                ),
            );
        }
    }
    for reader in &config.readers {
        if session.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[reader]).await?.is_none() {
            // No reason to stand still: the others read on.
            preflight.warn(
                "target",
                format!("the reader {reader} does not exist: it is granted nothing"),
                Remedy::sql(&By::Superuser(Side::Target), [format!("CREATE ROLE {}", quote::identifier(reader))])
                    .optional()
                    .note("or take it out of [target] readers"),
            );
        }
    }
    let registered = strangers(session, preflight).await?;
    slot::foreign(config, session, preflight).await?;
    foreign_publications::publications(config, session, preflight).await?;
    preflight.ok("target", format!("read models in schema {} of {}", config.schema, config.target_settings().summary()));
    Ok(registered)
}

/// Refuses tables that have a projection's name and are somebody else's; returns the names of the registered projections.
///
/// Another instance may be setting up just now. It makes a table and registers it in one transaction, so a table that was there
/// before the registered names were read is known by then; one that is dropped meanwhile is no longer there when looked at again.
async fn strangers(session: &Session, preflight: &mut Preflight) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut found = existing_tables(session, &preflight.planned).await?;
    between_looks();
    let registered = registered_names(session).await?;
    found.retain(|(_, name)| !registered.contains(name));
    if !found.is_empty() {
        let still = existing_tables(session, &preflight.planned).await?;
        found.retain(|table| still.contains(table));
    }
    for (schema, name) in found {
        let table = format!("{schema}.{name}");
        preflight.error(
            "target",
            format!("{table} exists and is not Lockstep's"),
            format!("rename the projection, choose another [target] schema, or DROP TABLE {table}"),
        );
    }
    Ok(registered)
}

/// In tests: waits for a file to appear.
fn between_looks() {
    fail::fail_point!("preflight_strangers", |path| {
        while path.as_ref().is_some_and(|path| !std::path::Path::new(path).exists()) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
}

/// Schema and name of the planned tables that exist.
async fn existing_tables(session: &Session, planned: &[Planned]) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let schemas: Vec<&str> = planned.iter().map(|planned| planned.schema.as_str()).collect();
    let names: Vec<&str> = planned.iter().map(|planned| planned.plan.projection.as_str()).collect();
    let rows = session
        .query(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN unnest($1::text[], $2::text[]) AS planned (schema, name) ON n.nspname = planned.schema AND c.relname = planned.name",
            &[&schemas, &names],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn registered_names(session: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
    let known: bool = session.query_one("SELECT to_regclass('lockstep.projection') IS NOT NULL", &[]).await?.get(0);
    if !known {
        return Ok(Vec::new());
    }
    let rows = session.query("SELECT name FROM lockstep.projection", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
