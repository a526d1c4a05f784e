//! Whether this target is the one whose slot it would stream from, and whether the source is where it was or ahead.
//!
//! ```text
//!   lockstep.installation ── id, where it last wrote (cluster, database, timeline), epoch ──► copied with the database
//!   the source            ── whose each slot is (standing/mark.rs)                        ──► not copied with it
//! ```
//!
//! | what happened to the target | what it is |
//! | --- | --- |
//! | `CREATE DATABASE … TEMPLATE`, `pg_dump` and restore into another database, `pg_upgrade` | a copy: another place |
//! | a base backup or a volume's copy that runs beside the original | a copy: the original streams (standing/stream.rs), or has been started since |
//! | a standby that was promoted, another host, another port | the same installation |
//!
//! A copy that is configured with another slot is an installation of its own. `lockstep adopt` makes a copy the installation.

mod lock;
mod mark;
mod place;
mod source;
mod stream;

use anyhow::Context as _;
use lockstep_config::Config;
use lockstep_connect::Session;

pub use lock::{WRITER_LOCK, writer_lock_is_held};
pub use mark::{Mark, forget, of_slot, others_of_publication, put};
use mark::{latest, marks};
pub use place::{Installation, Place};
pub use source::behind;
pub use stream::streamed_elsewhere;

/// What a target is to the slot that is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is set up.
    New,
    /// The slot is its own.
    Ours,
    /// It is a copy, and has a slot of its own.
    Apart,
    /// The slot is another's, for this reason.
    Copy(String),
}

/// Finds out what a target is.
///
/// # Errors
/// A catalog cannot be read.
pub async fn standing(config: &Config, source: &Session, target: &Session) -> anyhow::Result<Standing> {
    // First what the source says: a leader that starts meanwhile notes its epoch in the target before it does there.
    let marks = marks(source).await?;
    let Some(installation) = Installation::load(target).await? else { return Ok(Standing::New) };
    let mark = latest(marks, &installation.slot);
    let here = Place::of(target).await?;
    let elsewhere = installation.place.as_ref().filter(|place| !place.is_same_database(&here));
    if let Some(original) = elsewhere {
        if config.slot != installation.slot {
            return Ok(Standing::Apart);
        }
        return Ok(Standing::Copy(format!("it was made in {original}, and this is {here}")));
    }
    let another_s = match mark.and_then(|mark| taken(&mark, &installation, &here)) {
        Some(reason) => Some(reason),
        None => streamed_elsewhere(source, &installation.slot, Some(target)).await?,
    };
    Ok(match another_s {
        // What it has been copied with stays the original's.
        Some(_) if config.slot != installation.slot => Standing::Apart,
        Some(reason) => Standing::Copy(reason),
        None => Standing::Ours,
    })
}

/// Why a slot is not this installation's, by what the source has noted about it.
fn taken(mark: &Mark, installation: &Installation, here: &Place) -> Option<String> {
    if mark.installation != installation.id {
        return Some(format!("the slot belongs to another installation, in {}", mark.place));
    }
    if !mark.place.is_same_database(here) {
        return Some(format!("the slot was adopted by its copy in {}", mark.place));
    }
    if mark.place.timeline > here.timeline {
        return Some(format!(
            "the slot was taken over by its standby, on timeline {} (this is {})",
            mark.place.timeline, here.timeline
        ));
    }
    (mark.epoch > installation.epoch).then(|| {
        format!("it is an older state: the original has been started since (start {}, here {})", mark.epoch, installation.epoch)
    })
}

/// What a copy is told.
pub fn refusal(reason: &str) -> String {
    format!("this target is a copy of an installation: {reason}")
}

/// What a copy can do.
pub const REMEDY: &str =
    "choose another slot and publication ([source] slot, publication), or, if the original is gone, lockstep adopt";

/// Refuses a copy.
///
/// # Errors
/// It is one, or that cannot be found out.
pub async fn insist(config: &Config, target: &Session) -> anyhow::Result<()> {
    let source = Session::open(&config.source, "lockstep command").await.context("source")?;
    match standing(config, &source, target).await? {
        Standing::Copy(reason) => anyhow::bail!("{}\n = help: {REMEDY}", refusal(&reason)),
        Standing::New | Standing::Ours | Standing::Apart => Ok(()),
    }
}

/// Notes here and on the source that this target writes, in its `epoch`. A copy with a slot of its own gets an identity of its own.
///
/// # Errors
/// A statement on the target failed; that the source cannot be told is only logged.
pub async fn claim(config: &Config, source: &Session, target: &Session, apart: bool, epoch: i64) -> anyhow::Result<()> {
    let here = Place::of(target).await?;
    // What the source knows must not be ahead of what the target has made durable.
    let row = target
        .query_one(
            "WITH durable AS (SELECT set_config('synchronous_commit', 'local', true))
             UPDATE lockstep.installation
             SET id = CASE WHEN $4 THEN gen_random_uuid() ELSE id END, target_system = $1, target_database = $2, target_timeline = $3
             FROM durable RETURNING id::text",
            &[&here.system, &here.database, &here.timeline, &apart],
        )
        .await?;
    let mark =
        Mark { slot: config.slot.clone(), publication: config.publication.clone(), installation: row.get(0), place: here, epoch };
    if let Err(error) = put(source, &mark).await {
        tracing::warn!(
            error = %lockstep_connect::describe(&error),
            "the source cannot note whose slot {} is; a copy of the target is then found by its place alone", config.slot
        );
    }
    Ok(())
}
