//! What commands ask of the projector that runs, by way of a table in the target.

use std::time::Duration;

use lockstep_connect::Session;
use lockstep_refresh::GroupCommand;
use tokio::sync::mpsc;

use crate::verification::{GroupHandle, Verifier, Wish};

/// How often the running projector looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// When nobody has been there for so long to give an answer, none will come. Between two set-ups nobody is, for a moment.
const ABSENT_MAX: Duration = Duration::from_secs(10);

/// How often who asked looks for the answer.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
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

/// What is to be done with everything that runs.
pub(crate) enum Asked {
    /// Set up again in place, for this reason.
    Renew(String),
    /// Set up anew with a new slot.
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

    fn from_name(name: &str) -> Option<Self> {
        let all = [Self::RetryQuarantine, Self::Verify, Self::Rebuild, Self::Look, Self::NewSlot];
        all.into_iter().find(|request| request.name() == name)
    }
}

/// Asks the projector that runs, or the next one that starts. Returns the request's number.
///
/// # Errors
/// The statement failed.
pub(crate) async fn ask(
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
pub(crate) async fn settled(target: &Session, projections: &[&str], running: bool) -> anyhow::Result<()> {
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
pub(crate) async fn asks_for_new_slot(target: &Session) -> Result<bool, tokio_postgres::Error> {
    let asked = "SELECT EXISTS (SELECT FROM lockstep.request WHERE kind = $1 AND done_at IS NULL)";
    Ok(target.query_one(asked, &[&Request::NewSlot.name()]).await?.get(0))
}

/// Whether a projector runs: it holds the writer's lock.
///
/// # Errors
/// The query failed.
pub(crate) async fn is_running(target: &Session) -> Result<bool, tokio_postgres::Error> {
    let row = target
        .query_one(
            "SELECT EXISTS (
                 SELECT FROM pg_locks
                 WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND objsubid = 1
                   AND (classid::bigint << 32 | objid::bigint) = $1
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            &[&crate::lease::WRITER_LOCK],
        )
        .await?;
    Ok(row.get(0))
}

/// Carries requests out; returns when everything is to be set up again. Whatever ails the session, others notice.
pub(crate) async fn follow(target: &Session, verifier: &Verifier) -> Asked {
    // Verifications wait for each other, so that they do not compete for the servers.
    let (verifications, wished) = mpsc::unbounded_channel();
    let (looks, asked) = mpsc::unbounded_channel();
    let queues = Queues { verifications, looks };
    let verifying = verify_in_turn(wished, verifier);
    let answering = answer_looks(asked, target, verifier);
    let looking = async {
        let mut resumed = false;
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Whoever asked waits for the answer.
            if !resumed {
                match resume(target).await {
                    Ok(()) => resumed = true,
                    Err(error) => {
                        tracing::debug!(error = %lockstep_connect::describe(&error), "requests");
                        continue;
                    }
                }
            }
            match look(target, &verifier.groups, &queues).await {
                Ok(None) => {}
                Ok(Some(asked)) => return asked,
                Err(error) => tracing::debug!(error = %lockstep_connect::describe(&error), "requests"),
            }
        }
    };
    tokio::select! {
        asked = looking => asked,
        () = verifying => Asked::Renew("verifications are carried out no more".to_owned()),
        () = answering => Asked::Renew("looks at the catalogs are answered no more".to_owned()),
    }
}

/// Where requests go that take their time.
struct Queues {
    verifications: mpsc::UnboundedSender<(i64, Wish)>,
    looks: mpsc::UnboundedSender<i64>,
}

async fn answer_looks(mut asked: mpsc::UnboundedReceiver<i64>, target: &Session, verifier: &Verifier) {
    while let Some(id) = asked.recv().await {
        verifier.catalogs.unchanged().await;
        let done = target.execute("UPDATE lockstep.request SET done_at = clock_timestamp() WHERE id = $1", &[&id]).await;
        if let Err(error) = done {
            tracing::debug!(error = %lockstep_connect::describe(&error), "answering a request");
        }
    }
}

/// Looks and verifications that were cut off by a set-up, or with the process, are made again; those of a schedule come by themselves.
async fn resume(target: &Session) -> Result<(), tokio_postgres::Error> {
    target
        .batch_execute(
            "WITH again AS (UPDATE lockstep.request SET taken_at = NULL
                            WHERE kind IN ('look', 'verify') AND taken_at IS NOT NULL AND done_at IS NULL RETURNING id)
             DELETE FROM lockstep.verification WHERE request IN (SELECT id FROM again);
             UPDATE lockstep.verification SET finished_at = clock_timestamp(), outcome = 'failed', message = 'it was cut off'
             WHERE finished_at IS NULL",
        )
        .await
}

/// Takes the requests that wait. Returns what concerns everything that runs.
async fn look(target: &Session, groups: &[GroupHandle], queues: &Queues) -> Result<Option<Asked>, tokio_postgres::Error> {
    let mut rebuild = None;
    let mut new_slot = false;
    let rows = target
        .query(
            "WITH old AS (DELETE FROM lockstep.request WHERE taken_at < clock_timestamp() - interval '1 day')
             UPDATE lockstep.request SET taken_at = clock_timestamp() WHERE taken_at IS NULL RETURNING id, kind, projection, arguments",
            &[],
        )
        .await?;
    for row in rows {
        let (id, kind, projection): (i64, &str, Option<String>) = (row.get(0), row.get(1), row.get(2));
        match Request::from_name(kind) {
            None => tracing::warn!(kind, "a request that this version does not know"),
            Some(Request::RetryQuarantine) => {
                for group in groups {
                    // A group that has ended is noticed by the supervisor.
                    drop(group.commands.send(GroupCommand::RetryQuarantine { projection: projection.clone() }));
                }
            }
            Some(Request::Verify) => {
                let wish = serde_json::from_value(row.get(3)).unwrap_or_default();
                drop(queues.verifications.send((id, wish)));
            }
            Some(Request::Look) => drop(queues.looks.send(id)),
            Some(Request::Rebuild) => rebuild = projection,
            Some(Request::NewSlot) => new_slot = true,
        }
    }
    // The set-up for the slot does the other, too.
    let renew = rebuild.map(|name| Asked::Renew(format!("{name} is to be rebuilt")));
    Ok(if new_slot { Some(Asked::NewSlot) } else { renew })
}

async fn verify_in_turn(mut queue: mpsc::UnboundedReceiver<(i64, Wish)>, verifier: &Verifier) {
    while let Some((id, wish)) = queue.recv().await {
        let result = verifier.run(&wish, Some(id)).await;
        let error = result.err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            tracing::error!(error, "verification");
        }
        let recorded = match Session::open(verifier.config.target_settings(), "lockstep verify").await {
            Ok(session) => session
                .execute("UPDATE lockstep.request SET done_at = clock_timestamp(), error = $2 WHERE id = $1", &[&id, &error])
                .await
                .map(drop)
                .map_err(|error| lockstep_connect::describe(&error)),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = recorded {
            tracing::warn!(error, "recording that a request was carried out");
        }
    }
}
