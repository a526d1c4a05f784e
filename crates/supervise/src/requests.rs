//! What commands ask of the projector that runs, by way of a table in the target.

use std::time::Duration;

use lockstep_connect::Session;
use lockstep_preflight::standing::writer_lock_is_held;

/// When nobody has been there for so long to give an answer, none will come. Between two set-ups nobody is, for a moment.
const ABSENT_MAX: Duration = Duration::from_secs(10);

/// How often who asked looks for the answer.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Try the keys in quarantine again.
    RetryQuarantine,
    /// Verify projections, and perhaps repair them.
    Verify,
    /// Build a projection anew beside the old one.
    Rebuild,
    /// Look at the source's catalogs; done when they are what they were.
    Look,
    /// Give the slot up and make a new one; done when there is one.
    NewSlot,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Self::RetryQuarantine => "retry_quarantine",
            Self::Verify => "verify",
            Self::Rebuild => "rebuild",
            Self::Look => "look",
            Self::NewSlot => "new_slot",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let all = [Self::RetryQuarantine, Self::Verify, Self::Rebuild, Self::Look, Self::NewSlot];
        all.into_iter().find(|request| request.name() == name)
    }
}

/// Asks the projector that runs, or the next one that starts. Returns the request's number.
///
/// # Errors
/// The statement failed.
pub async fn ask(
    target: &Session,
    request: Request,
    projection: Option<&str>,
    arguments: &serde_json::Value,
) -> Result<i64, tokio_postgres::Error> {
    let row = target
        .query_one(
            "INSERT INTO lockstep.request (kind, projection, arguments) VALUES ($1, $2, $3) RETURNING id",
            &[&request.name(), &projection, arguments],
        )
        .await?;
    Ok(row.get(0))
}

/// Waits until the projector that runs has looked at the source's catalogs and has compared what it found changed in some
/// projections. Without bound: the caller's. With `running` it ends when no projector runs.
///
/// # Errors
/// A statement failed, or no projector runs any more.
pub async fn settled(target: &Session, projections: &[&str], running: bool) -> anyhow::Result<()> {
    let request = ask(target, Request::Look, None, &serde_json::json!({})).await?;
    let mut seen_running = tokio::time::Instant::now();
    loop {
        let row = target
            .query_one(
                "SELECT EXISTS (SELECT FROM lockstep.request WHERE id = $1 AND done_at IS NOT NULL)
                        AND NOT EXISTS (SELECT FROM lockstep.projection AS p
                                        WHERE coalesce(p.part_of, p.name) = ANY ($2) AND p.state = 'degraded')",
                &[&request, &projections],
            )
            .await?;
        if row.get(0) {
            return Ok(());
        }
        if !running || is_running(target).await? {
            seen_running = tokio::time::Instant::now();
        }
        anyhow::ensure!(seen_running.elapsed() < ABSENT_MAX, "the projector that ran has ended");
        tokio::time::sleep(ANSWER_INTERVAL).await;
    }
}

/// Whether a new slot is asked for and has not been made.
///
/// # Errors
/// The query failed.
pub async fn asks_for_new_slot(target: &Session) -> Result<bool, tokio_postgres::Error> {
    let asked = "SELECT EXISTS (SELECT FROM lockstep.request WHERE kind = $1 AND done_at IS NULL)";
    Ok(target.query_one(asked, &[&Request::NewSlot.name()]).await?.get(0))
}

/// Whether a projector runs: it holds the writer's lock.
///
/// # Errors
/// `pg_locks` cannot be read.
pub async fn is_running(target: &Session) -> Result<bool, tokio_postgres::Error> {
    writer_lock_is_held(target).await
}
