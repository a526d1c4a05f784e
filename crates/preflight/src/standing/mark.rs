//! What the source knows about whose a slot is.
//!
//! A slot has no comment, and whoever may stream from it need not own the publication, a table or a schema there. What every role may
//! make without any privilege is a large object; so it is noted as the comment of an empty one (`\dl` in psql shows it). It is not
//! replicated logically, everybody may read it, and it survives restarts, failovers and `pg_upgrade` of the source.

use lockstep_connect::Session;
use lockstep_plan::quote;
use serde::{Deserialize, Serialize};

use super::place::Place;

/// How the comment begins.
const PREFIX: &str = "Lockstep notes here whose a replication slot is; do not drop it: ";

/// Whose a slot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The slot.
    pub slot: String,
    /// The publication that it is streamed with.
    pub publication: String,
    /// The installation's id.
    pub installation: String,
    /// Where it last wrote.
    pub place: Place,
    /// In which epoch.
    pub epoch: i64,
}

/// A mark, the large object that bears it, and whether that is ours to change.
struct Found {
    mark: Mark,
    object: u32,
    own: bool,
}

/// The latest word about a slot.
///
/// # Errors
/// The source's large objects and their comments cannot be read or written.
pub async fn of_slot(source: &Session, slot: &str) -> Result<Option<Mark>, tokio_postgres::Error> {
    Ok(latest(marks(source).await?, slot))
}

/// What is said about all slots.
pub(super) async fn marks(source: &Session) -> Result<Vec<Mark>, tokio_postgres::Error> {
    Ok(read(source).await?.into_iter().map(|found| found.mark).collect())
}

/// The latest word about a slot.
pub(super) fn latest(marks: Vec<Mark>, slot: &str) -> Option<Mark> {
    marks.into_iter().filter(|mark| mark.slot == slot).max_by_key(|mark| (mark.place.timeline, mark.epoch))
}

/// Whether an installation other than `installation` uses a publication.
///
/// # Errors
/// The source's large objects and their comments cannot be read or written.
pub async fn others_of_publication(
    source: &Session,
    publication: &str,
    installation: &str,
) -> Result<bool, tokio_postgres::Error> {
    let found = read(source).await?;
    Ok(found.iter().any(|found| found.mark.publication == publication && found.mark.installation != installation))
}

/// Notes whose a slot is.
///
/// # Errors
/// The source's large objects and their comments cannot be read or written.
pub async fn put(source: &Session, mark: &Mark) -> Result<(), tokio_postgres::Error> {
    let found = read(source).await?.into_iter().find(|found| found.own && found.mark.slot == mark.slot);
    if found.as_ref().is_some_and(|found| found.mark == *mark) {
        return Ok(());
    }
    let text = serde_json::to_string(mark).unwrap_or_default();
    let comment = quote::literal(&format!("{PREFIX}{text}"));
    let object = found.map_or_else(|| "lo_create(0)".to_owned(), |found| found.object.to_string());
    // A comment's object is no parameter, and an object without its comment would be nobody's.
    let script =
        format!("DO $lockstep$ BEGIN EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L', {object}, {comment}); END $lockstep$");
    source.batch_execute(&script).await
}

/// Forgets a slot that is gone.
///
/// # Errors
/// The source's large objects and their comments cannot be read or written.
pub async fn forget(source: &Session, slot: &str) -> Result<(), tokio_postgres::Error> {
    for found in read(source).await?.into_iter().filter(|found| found.own && found.mark.slot == slot) {
        source.execute("SELECT lo_unlink($1)", &[&found.object]).await?;
    }
    Ok(())
}

async fn read(source: &Session) -> Result<Vec<Found>, tokio_postgres::Error> {
    let rows = source
        .query(
            "SELECT substr(d.description, length($1) + 1), l.oid, pg_has_role(l.lomowner, 'USAGE')
             FROM pg_description AS d JOIN pg_largeobject_metadata AS l ON l.oid = d.objoid
             WHERE d.classoid = 'pg_largeobject'::regclass AND starts_with(d.description, $1)",
            &[&PREFIX],
        )
        .await?;
    // What somebody else wrote there says nothing.
    let found = |row: &tokio_postgres::Row| {
        Some(Found { mark: serde_json::from_str(row.get(0)).ok()?, object: row.get(1), own: row.get(2) })
    };
    Ok(rows.iter().filter_map(found).collect())
}
