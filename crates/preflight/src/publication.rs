//! The publication: whether it is there and covers what is read, and who may change it.

use lockstep_capture::{Coverage, Lack, coverage, publication_statements};
use lockstep_config::Config;
use lockstep_connect::Session;

use crate::attribution::relation_subject;
use crate::remedy::{By, Remedy, Side};
use crate::report::Preflight;

pub(crate) async fn look(config: &Config, source: &Session, preflight: &mut Preflight) {
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
