//! The servers: versions, settings, privileges, publication, slot, target tables.

use lockstep_capture::{Coverage, Lack, coverage, publication_statements, unidentified, unidentified_in};
use lockstep_config::Config;
use lockstep_connect::{ConnectError, Session, Settings};
use lockstep_plan::quote;
use lockstep_refresh::analysis::may_read;
use lockstep_wal::{ReplicationConnection, SystemIdentity};

use crate::concerned::relation_subject;
use crate::finding::Severity;
use crate::found::{Depth, Planned, Preflight};
use crate::remedy::{By, Remedy, Side};
use crate::standby_names;
use crate::{encodings, limits, neighbours, privileges, settings, slot, whose};

/// The majors that are supported.
const MAJORS: std::ops::RangeInclusive<u32> = 14..=18;

async fn open(settings: &Settings, subject: &str, preflight: &mut Preflight) -> Option<Session> {
    match Session::open(settings, "lockstep check").await {
        Ok(session) => Some(session),
        Err(error) => {
            preflight.error(subject, error.to_string(), error.remedy());
            None
        }
    }
}

/// The session that the read API is to have, where its URL is its own. A server that is not there now may come back; a pooler stays one.
pub(crate) async fn reading(config: &Config, preflight: &mut Preflight) {
    let Some(settings) = config.api.as_ref().and_then(|api| api.settings.as_ref()) else { return };
    match Session::open(settings, "lockstep check").await {
        Ok(_) => {}
        Err(error @ ConnectError::Pooled { .. }) => preflight.error("api", error.to_string(), error.remedy()),
        Err(error) => preflight.warn("api", error.to_string(), error.remedy()),
    }
}

pub(crate) async fn source(config: &Config, depth: Depth, preflight: &mut Preflight) -> Option<Session> {
    let session = open(&config.source, "source", preflight).await?;
    let facts = session
        .query_one(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), current_setting('wal_level'),
                    current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots),
                    (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery()",
            &[],
        )
        .await;
    let row = match facts {
        Ok(row) => row,
        Err(error) => {
            preflight.error(
                "source",
                lockstep_connect::describe(&error),
                "is this PostgreSQL? A pooler or another database cannot be followed",
            );
            return None;
        }
    };
    let major = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
    preflight.major = major;
    let version: &str = row.get(1);
    if MAJORS.contains(&major) {
        preflight.ok("source", format!("PostgreSQL {version} at {}", session.settings_of_host().summary()));
    } else {
        preflight.error(
            "source",
            format!("PostgreSQL {version} is not supported"),
            format!("supported are {} to {}", MAJORS.start(), MAJORS.end()),
        );
        return None;
    }
    if depth == Depth::Plans {
        return Some(session);
    }
    let wal_level: &str = row.get(2);
    if wal_level == "logical" {
        preflight.ok("source", "wal_level is logical");
    } else {
        preflight.error(
            "source",
            format!("wal_level is {wal_level}; logical replication needs logical"),
            Remedy::sql(&By::Superuser(Side::Source), ["ALTER SYSTEM SET wal_level = logical"])
                .note("then restart the server; managed services: set rds.logical_replication or its like"),
        );
    }
    if row.get::<_, bool>(5) {
        preflight.error(
            "source",
            format!("{} is a standby", session.endpoint()),
            "follow the primary; with several hosts in the url add target_session_attrs=read-write",
        );
    }
    standbys(&session, depth, preflight).await;
    replication(config, &session, row.get::<_, Option<bool>>(4).unwrap_or(false), preflight).await;
    slot::look(config, depth, &session, row.get(3), preflight).await;
    Some(session)
}

/// `run` starts anyway and stands aside; `check` refuses.
async fn standbys(session: &Session, depth: Depth, preflight: &mut Preflight) {
    match standby_names::chosen(session).await {
        Ok(None) => {}
        Ok(Some(chosen)) => {
            let remedy = Remedy::sql(&By::Superuser(Side::Source), chosen.statements).note(chosen.note);
            let severity = if depth == Depth::Full { Severity::Error } else { Severity::Warning };
            preflight.push(severity, "source", chosen.message, Some(&remedy));
        }
        Err(error) => preflight.error("source", lockstep_connect::describe(&error), "make the server's settings readable"),
    }
}

async fn replication(config: &Config, session: &Session, has_attribute: bool, preflight: &mut Preflight) {
    let identified = match ReplicationConnection::open(&config.source).await {
        Ok(mut connection) => connection.identify_system().await,
        Err(error) => Err(error),
    };
    match identified {
        Ok(identity) => {
            one_server(session, &identity, preflight).await;
            preflight.system_identifier = identity.system_identifier;
            preflight.timeline = identity.timeline;
            preflight.flushed_lsn = identity.flushed_lsn;
            preflight.ok("source", "replication connections are accepted");
        }
        Err(error) => preflight.error(
            "source",
            format!("a replication connection fails: {error}"),
            if has_attribute {
                Remedy::from(
                    "allow it in pg_hba.conf (logical replication matches the database's own lines), and do not go through a pooler",
                )
            } else {
                let statement = format!("ALTER ROLE {} REPLICATION", quote::identifier(config.source.user()));
                Remedy::sql(&By::Superuser(Side::Source), [statement])
            },
        ),
    }
}

/// Rows are read where the changes come from, or nothing that is read is complete. A host list may lead to two servers.
async fn one_server(session: &Session, identity: &SystemIdentity, preflight: &mut Preflight) {
    match session.identity().await {
        // A standby is told of by itself.
        Ok((system, None)) if system == identity.system_identifier => {}
        Ok((system, Some(timeline))) if system == identity.system_identifier && timeline == identity.timeline => {}
        Ok((system, timeline)) => preflight.error(
            "source",
            format!(
                "SQL sessions and the replication connection lead to two servers: system {system} on timeline {}, and system {} on \
                 timeline {}",
                timeline.map_or_else(|| "?".to_owned(), |timeline| timeline.to_string()),
                identity.system_identifier,
                identity.timeline
            ),
            "add target_session_attrs=read-write, and see that only one of the hosts is a primary",
        ),
        Err(error) => preflight.error("source", lockstep_connect::describe(&error), "is this PostgreSQL?"),
    }
}

pub(crate) async fn relations(source: &Session, preflight: &mut Preflight) {
    for relation in preflight.tracked.clone() {
        match may_read(source, &relation.schema, &relation.name).await {
            Ok(problems) if problems.is_empty() => {
                let identity = if relation.identity.is_empty() {
                    "no key: its projections are recomputed as a whole".to_owned()
                } else {
                    format!("identity ({})", relation.identity.join(", "))
                };
                preflight.ok(relation_subject(&relation.label()), identity);
            }
            Ok(problems) => {
                let missing = privileges::of_relations(source, &[relation.oid]).await.unwrap_or_default();
                preflight.error(relation_subject(&relation.label()), problems.join("; "), missing.remedy);
            }
            Err(error) => {
                preflight.error(relation_subject(&relation.label()), lockstep_connect::describe(&error), "make it readable");
            }
        }
    }
}

/// Tables on which publishing would make the application's updates and deletes fail. Where it does already, following them goes on: what
/// PostgreSQL refuses is not missed.
pub(crate) async fn identities(config: &Config, depth: Depth, source: &Session, preflight: &mut Preflight) {
    let tables: Vec<u32> = preflight.tracked.iter().map(|relation| relation.oid).collect();
    let found = async {
        let found = unidentified(source, &tables).await?;
        let published = if found.is_empty() { Vec::new() } else { unidentified_in(source, &config.publication).await? };
        Ok::<_, tokio_postgres::Error>((found, published))
    };
    let (found, published) = match found.await {
        Ok(found) => found,
        Err(error) => return preflight.error("publication", lockstep_connect::describe(&error), "catalogs must be readable"),
    };
    for table in found {
        let subject = relation_subject(&table.root);
        let message = format!(
            "{} {}: publishing it makes the application's updates and deletes fail, or loses keys",
            table.table, table.reason
        );
        let remedy = Remedy::sql(&privileges::owner(source, &table.table).await, [&table.remedy]);
        if depth == Depth::Full || !published.contains(&table) {
            preflight.error(subject, message, remedy);
        } else {
            tracing::error!(remedy = remedy.line(preflight.two_databases), "{message}");
            preflight.warn(subject, message, remedy);
        }
    }
}

pub(crate) async fn publication(config: &Config, source: &Session, preflight: &mut Preflight) {
    let name = &config.publication;
    let found = match coverage(source, name, &preflight.tracked, preflight.major).await {
        Ok(found) => found,
        Err(error) => {
            return preflight.error("publication", lockstep_connect::describe(&error), "pg_publication must be readable");
        }
    };
    let exists = found != Coverage::Missing;
    let lacks = match &found {
        Coverage::Complete => return preflight.ok("publication", format!("{name} covers every table")),
        Coverage::Missing => format!("{name} does not exist"),
        Coverage::Incomplete(lacks) => {
            let reasons: Vec<&str> = lacks.iter().map(|lack| lack.reason.as_str()).collect();
            format!("{name} is incomplete: {}", reasons.join("; "))
        }
    };
    if preflight.tracked.is_empty() {
        return;
    }
    match may_publish(source, name, exists, preflight).await {
        Ok(true) => preflight.ok("publication", format!("{lacks}; it will be made so")),
        Ok(false) => {
            let by = publisher(source, name, preflight).await;
            let make =
                |found: &Coverage| Remedy::sql(&by, publication_statements(name, &preflight.tracked, preflight.major, found));
            match tables_lacking(&found, preflight) {
                Some(lacking) => {
                    let told: Vec<_> =
                        lacking.into_iter().map(|(label, lack)| (label, lack.reason.clone(), make(&alone(lack)))).collect();
                    for (label, reason, remedy) in told {
                        let message = format!("publication {name}: {reason}, and this role may not change that");
                        preflight.error(relation_subject(&label), message, remedy);
                    }
                }
                None => {
                    let remedy = make(&found);
                    preflight.error("publication", format!("{lacks}, and this role may not change that"), remedy);
                }
            }
        }
        Err(error) => preflight.error("publication", lockstep_connect::describe(&error), "catalogs must be readable"),
    }
}

/// The tables that an existing publication lacks, with what it lacks of them; nothing if that is not all.
fn tables_lacking<'a>(found: &'a Coverage, preflight: &Preflight) -> Option<Vec<(String, &'a Lack)>> {
    let Coverage::Incomplete(lacks) = found else { return None };
    lacks.iter().map(|lack| Some((preflight.tracked[lack.relation()?].label(), lack))).collect()
}

/// What is to be done about one table.
fn alone(lack: &Lack) -> Coverage {
    Coverage::Incomplete(vec![lack.clone()])
}

/// The one role that owns the publication, if it is there, and all the tables; otherwise a superuser.
async fn publisher(source: &Session, name: &str, preflight: &Preflight) -> By {
    let oids: Vec<u32> = preflight.tracked.iter().map(|relation| relation.oid).collect();
    let owners = source
        .query(
            "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = ANY ($1)
             UNION SELECT pg_get_userbyid(pubowner)::text FROM pg_publication WHERE pubname = $2",
            &[&oids, &name],
        )
        .await;
    match owners.as_deref() {
        Ok([only]) => By::Owner(only.get(0)),
        Ok(_) | Err(_) => By::Superuser(Side::Source),
    }
}

/// Publishing a table takes its ownership; a publication takes CREATE on the database, or its ownership.
async fn may_publish(source: &Session, name: &str, exists: bool, preflight: &Preflight) -> Result<bool, tokio_postgres::Error> {
    let oids: Vec<u32> = preflight.tracked.iter().map(|relation| relation.oid).collect();
    let row = source
        .query_one(
            "SELECT coalesce(bool_and(pg_has_role(c.relowner, 'USAGE')), true),
                    CASE WHEN $2 THEN (SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $3)
                         ELSE has_database_privilege(current_database(), 'CREATE') END
             FROM pg_class c WHERE c.oid = ANY($1)",
            &[&oids, &exists, &name],
        )
        .await?;
    Ok(row.get::<_, bool>(0) && row.get::<_, Option<bool>>(1).unwrap_or(false))
}

/// Checks the target; returns the names of the projections registered there.
pub(crate) async fn target(config: &Config, source: &Session, preflight: &mut Preflight) -> Vec<String> {
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
                whose::look(config, source, session, preflight).await;
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
    neighbours::publications(config, session, preflight).await?;
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
