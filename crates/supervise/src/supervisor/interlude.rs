//! Between two rounds: why the last one ended, in words, and what ends the pause before its time.

use std::time::Duration;

use lockstep_capture::{KeepSettings, Loss, StreamEnd, keep_settings, loss};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_wal::Lsn;

use super::setbacks::Next;
use crate::requests;

/// How often it is looked whether somebody has done something about it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the source gets to say what became of the slot.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why the slot is lost; `None` if it is not, or the source cannot be asked. `since`: where the slot was, and how long ago.
pub(super) async fn why_lost(config: &Config, since: Option<(Lsn, Duration)>) -> Option<Loss> {
    let asked = async {
        let source = Session::open(&config.source, "lockstep").await.map_err(|error| error.to_string())?;
        loss(&source, &config.slot, since).await.map_err(|error| lockstep_connect::describe(&error))
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(loss)) => loss,
        Ok(Err(error)) => {
            tracing::debug!(error, "asking what became of the slot");
            None
        }
        Err(_) => None,
    }
}

/// That a slot is lost, and what keeps the next one.
pub(super) fn of_loss(loss: &Loss, next: &Next) -> String {
    let again = match next.times {
        1 => String::new(),
        times => format!(" {times} times in a row (a new one is made in {} s)", next.pause.as_secs()),
    };
    format!("the replication slot is lost{again}: {}. To keep it: {}", loss.cause, loss.remedy)
}

/// That a stream cannot go on at the same place again. `whole_rows` are the statements that make tables send less.
pub(super) fn of_same_end(end: &StreamEnd, next: &Next, whole_rows: &[String]) -> String {
    let remedy = match whole_rows {
        [] => String::new(),
        statements => format!(" Rows that are sent whole, old and new, may be too large to be sent: {}", statements.join(" ")),
    };
    format!(
        "the stream ended {} times in the same way behind position {}: {}. It cannot pass what is there; a new slot is made behind it in \
         {} s, and everything is compared.{remedy}",
        next.times,
        end.after,
        end.reason,
        next.pause.as_secs()
    )
}

/// Returns when the settings that cost the slot are not what they were, or a new slot is asked for.
pub(super) async fn something_done(config: &Config, settings: Option<&KeepSettings>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if settings_changed(config, settings).await || asked_for_new_slot(config).await {
            return;
        }
    }
}

async fn settings_changed(config: &Config, before: Option<&KeepSettings>) -> bool {
    let Some(before) = before else { return false };
    let Ok(source) = Session::open(&config.source, "lockstep").await else { return false };
    keep_settings(&source).await.is_ok_and(|now| &now != before)
}

async fn asked_for_new_slot(config: &Config) -> bool {
    let Ok(target) = Session::open(config.target_settings(), "lockstep").await else { return false };
    requests::asks_for_new_slot(&target).await.unwrap_or(false)
}
