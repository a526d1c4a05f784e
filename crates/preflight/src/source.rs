//! The source: its version, whether it can be streamed from, the tables that are read.

use lockstep_capture::{unidentified, unidentified_in};
use lockstep_config::Config;
use lockstep_connect::{ConnectError, Session, Settings};
use lockstep_plan::quote;
use lockstep_refresh::analysis::may_read;
use lockstep_wal::{ReplicationConnection, SystemIdentity};

use crate::attribution::relation_subject;
use crate::finding::Severity;
use crate::remedy::{By, Remedy, Side};
use crate::report::{Depth, Preflight};
use crate::standby_names;
use crate::{privileges, slot};

/// The majors that are supported.
pub(crate) const MAJORS: std::ops::RangeInclusive<u32> = 14..=18;

pub(crate) async fn open(settings: &Settings, subject: &str, preflight: &mut Preflight) -> Option<Session> {
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
                } else if relation.row_type.is_some() {
                    "no key: its rows are known by the hash of what they hold".to_owned()
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
