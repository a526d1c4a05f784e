//! Carries out what commands ask for ([`crate::requests`]).

use std::time::Duration;

use lockstep_connect::Session;
use lockstep_refresh::GroupCommand;
use tokio::sync::mpsc;

use crate::requests::Request;
use crate::verification::{GroupHandle, Verifier, Wish};

/// How often the running projector looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is to be done with everything that runs.
pub(crate) enum Asked {
    /// Set up again in place, for this reason.
    Renew(String),
    /// Set up anew with a new slot.
    NewSlot,
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
