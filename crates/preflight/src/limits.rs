//! How many sessions `run` needs, and whether it may have them.

use lockstep_config::{Config, DEFAULT_GROUP};
use lockstep_connect::Session;
use lockstep_plan::quote;

use crate::remedy::{By, Remedy, Side};
use crate::report::Preflight;

/// Sessions on the source beside those of groups and readers: the stream, two that look at it and its schema, progress, a set-up with
/// its look at everything, a verification.
const SOURCE_FIXED: usize = 8;

/// On the target: the leader, its lease, a migration or a look at everything, the page, upkeep, two schedules with two sessions each,
/// two verifications.
const TARGET_FIXED: usize = 11;

/// Compares what is needed with the limits of role and database.
///
/// # Errors
/// The catalogs cannot be read.
pub(crate) async fn connections(
    config: &Config,
    source: &Session,
    target: &Session,
    preflight: &mut Preflight,
) -> Result<(), tokio_postgres::Error> {
    let (on_source, on_target) = needed(config, preflight);
    if config.target.is_none() {
        return one(source, "source", on_source + on_target, preflight).await;
    }
    one(source, "source", on_source, preflight).await?;
    one(target, "target", on_target, preflight).await
}

/// Sessions at the same time at the source and at the target.
pub(crate) fn needed(config: &Config, preflight: &Preflight) -> (usize, usize) {
    let mut groups: Vec<&str> = preflight.planned.iter().map(|planned| planned.group.as_str()).collect();
    groups.push(DEFAULT_GROUP);
    groups.sort_unstable();
    groups.dedup();
    // A group nudges the source, and computes there; with two databases it writes in another session. Those that load its builds are not
    // counted: it does with fewer, or with none, where no more are to be had.
    let groups_on_target = if config.target.is_some() { groups.len() } else { 0 };
    let api = config.api.as_ref().map_or(0, |api| api.connections + 2);
    (SOURCE_FIXED + 2 * groups.len(), TARGET_FIXED + groups_on_target + api)
}

async fn one(session: &Session, subject: &str, needed: usize, preflight: &mut Preflight) -> Result<(), tokio_postgres::Error> {
    let row = session
        .query_one(
            "SELECT r.rolname::text, CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END, d.datname::text,
                    CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END
             FROM pg_roles AS r, pg_database AS d WHERE r.rolname = current_user AND d.datname = current_database()",
            &[],
        )
        .await?;
    let (role, database): (&str, &str) = (row.get(0), row.get(2));
    let limits = [("ROLE", role, row.get::<_, i32>(1)), ("DATABASE", database, row.get(3))];
    for (kind, name, limit) in limits {
        let Some(limit) = usize::try_from(limit).ok().filter(|limit| *limit < needed) else { continue };
        preflight.error(
            subject,
            format!("CONNECTION LIMIT {limit} of {} {name} is below the {needed} sessions that run needs", kind.to_lowercase()),
            Remedy::sql(
                &By::Superuser(if subject == "target" { Side::Target } else { Side::Source }),
                [format!("ALTER {kind} {} CONNECTION LIMIT {needed}", quote::identifier(name))],
            ),
        );
    }
    Ok(())
}
