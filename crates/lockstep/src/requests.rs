//! What commands ask of the projector that runs, by way of a table in the target.

use std::time::Duration;

use lockstep_connect::Session;
use lockstep_refresh::GroupCommand;
use tokio::sync::mpsc;

/// How often the running projector looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Try the keys in quarantine again.
    RetryQuarantine,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Self::RetryQuarantine => "retry_quarantine",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::RetryQuarantine].into_iter().find(|request| request.name() == name)
    }
}

/// Asks the projector that runs, or the next one that starts.
///
/// # Errors
/// The statement failed.
pub(crate) async fn ask(target: &Session, request: Request, projection: Option<&str>) -> Result<(), tokio_postgres::Error> {
    target.execute("INSERT INTO lockstep.request (kind, projection) VALUES ($1, $2)", &[&request.name(), &projection]).await?;
    Ok(())
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
            &[&crate::setup::WRITER_LOCK],
        )
        .await?;
    Ok(row.get(0))
}

/// Hands requests to the groups; never returns. Whatever ails the session, others notice.
pub(crate) async fn follow(target: &Session, groups: &[mpsc::UnboundedSender<GroupCommand>]) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let taken = target
            .query(
                "WITH old AS (DELETE FROM lockstep.request WHERE taken_at < clock_timestamp() - interval '1 day')
                 UPDATE lockstep.request SET taken_at = clock_timestamp() WHERE taken_at IS NULL RETURNING kind, projection",
                &[],
            )
            .await;
        let rows = match taken {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(error = %lockstep_connect::describe(&error), "requests");
                continue;
            }
        };
        for row in rows {
            let (kind, projection): (&str, Option<String>) = (row.get(0), row.get(1));
            let Some(request) = Request::from_name(kind) else {
                tracing::warn!(kind, "a request that this version does not know");
                continue;
            };
            for group in groups {
                let command = match request {
                    Request::RetryQuarantine => GroupCommand::RetryQuarantine { projection: projection.clone() },
                };
                // A group that has ended is noticed by the supervisor.
                drop(group.send(command));
            }
        }
    }
}
