//! Whether everything flows: decided here, from what is true at this moment, for probes, status, page, metrics and whoever waits.
//!
//! A projection's recorded state says what became of its rows. Whether they are being kept so is another matter: the stream may be down,
//! batches may fail again and again, or the set-up may not come to an end. Then nothing is live, whatever is recorded.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lockstep_capture::CaptureStatus;
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_refresh::{GroupStatus, ProjectionState};
use tokio::sync::watch;

/// What is over so soon is no trouble: a walsender that is restarted, a batch that met a deadlock.
const PATIENCE: Duration = Duration::from_secs(3);

/// A group that has committed nothing for so long, and was not current in that time, does not get on.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is looked at; filled when running starts.
#[derive(Clone, Default)]
pub struct Health(Arc<RwLock<Looked>>);

#[derive(Default)]
struct Looked {
    at: At,
    /// Since when the stream is down.
    stream_down: Option<Instant>,
    /// Of a process that only reads: why it cannot.
    unreachable: Option<String>,
}

/// What the process does.
#[derive(Default)]
enum At {
    #[default]
    Starting,
    /// It does not maintain anything.
    Reading,
    SettingUp(String),
    Running {
        groups: Vec<watch::Receiver<GroupStatus>>,
        capture: watch::Receiver<CaptureStatus>,
        /// Projections that cannot even be planned.
        broken: Vec<String>,
        /// Why it is not set up as it is configured.
        postponed: Option<String>,
    },
}

/// What is found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is not ready; empty if it is.
    pub obstacles: Vec<String>,
    /// Why read models are not kept up to date; nothing is live then.
    pub trouble: Option<String>,
}

impl Health {
    /// Of a process that only reads; [`Self::reaches`] says whether it can.
    pub fn of_a_reader() -> Self {
        let health = Self::default();
        health.change(|looked| looked.at = At::Reading);
        health
    }

    /// Whether what is read can be reached, or why not.
    pub fn reaches(&self, problem: Option<String>) {
        self.change(|looked| looked.unreachable = problem);
    }

    /// It has to be set up again, for this reason.
    pub fn sets_up_again(&self, reason: String) {
        self.change(|looked| looked.at = At::SettingUp(reason));
    }

    /// This runs now.
    pub fn watch(
        &self,
        groups: Vec<watch::Receiver<GroupStatus>>,
        capture: watch::Receiver<CaptureStatus>,
        broken: Vec<String>,
        postponed: Option<String>,
    ) {
        self.change(|looked| looked.at = At::Running { groups, capture, broken, postponed });
    }

    fn change(&self, change: impl FnOnce(&mut Looked)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is true now.
    pub fn verdict(&self) -> Verdict {
        let mut looked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Looked { at, stream_down, unreachable } = &mut *looked;
        let mut verdict = match at {
            At::Starting => Verdict { obstacles: vec!["starting".to_owned()], trouble: None },
            At::Reading => Verdict::default(),
            At::SettingUp(reason) => {
                let first = reason.lines().next().unwrap_or_default();
                Verdict {
                    obstacles: vec![format!("setting up again: {first}")],
                    trouble: Some(format!("setting up again: {reason}")),
                }
            }
            At::Running { groups, capture, broken, postponed } => {
                let mut verdict = of_stream(&capture.borrow(), stream_down);
                verdict.obstacles.extend(broken.iter().map(|name| format!("{name} is faulted")));
                for group in groups {
                    verdict.add(of_group(&group.borrow()));
                }
                let postponed = postponed.as_ref().map(|reason| format!("not set up as it is to be: {reason}"));
                verdict.trouble = verdict.trouble.or(postponed);
                verdict
            }
        };
        verdict.obstacles.extend(unreachable.as_ref().map(|_| "the database cannot be reached".to_owned()));
        verdict
    }

    /// Says each change of it once in the log, and notes it where `lockstep status` looks. Never returns.
    pub async fn follow(&self, config: &Config) {
        // What has been said, and what has been noted: the target may not take it.
        let (mut told, mut noted): (Option<String>, Option<String>) = (None, None);
        loop {
            tokio::time::sleep(INTERVAL).await;
            let trouble = self.verdict().trouble;
            let (leads, runs) = match self.0.read().unwrap_or_else(PoisonError::into_inner).at {
                At::Starting | At::Reading => (false, false),
                At::SettingUp(_) => (true, false),
                At::Running { .. } => (true, true),
            };
            if leads {
                metrics::gauge!("lockstep_stalled").set(f64::from(u8::from(trouble.is_some())));
            }
            // While it is set up the set-up says what there is to say.
            if !runs {
                continue;
            }
            match &trouble {
                _ if trouble == told => {}
                Some(trouble) => tracing::error!(trouble, "read models are not kept up to date"),
                None => tracing::info!("read models are kept up to date again"),
            }
            told.clone_from(&trouble);
            if trouble != noted && note_trouble(config, trouble.as_deref()).await {
                noted = trouble;
            }
        }
    }
}

impl Verdict {
    fn add(&mut self, other: Self) {
        self.obstacles.extend(other.obstacles);
        self.trouble = self.trouble.take().or(other.trouble);
    }
}

fn of_stream(status: &CaptureStatus, down: &mut Option<Instant>) -> Verdict {
    let (obstacle, reason) = match status {
        CaptureStatus::Streaming => {
            *down = None;
            return Verdict::default();
        }
        CaptureStatus::Starting => ("the stream is starting", None),
        CaptureStatus::Reconnecting(reason) => ("the stream is reconnecting", Some(reason)),
        CaptureStatus::Ended(end) => ("the stream has ended", Some(&end.reason)),
    };
    let since = *down.get_or_insert_with(Instant::now);
    let trouble = (since.elapsed() >= PATIENCE).then(|| match reason {
        Some(reason) => format!("{obstacle}: {reason}"),
        None => obstacle.to_owned(),
    });
    Verdict { obstacles: vec![obstacle.to_owned()], trouble }
}

fn of_group(status: &GroupStatus) -> Verdict {
    let mut verdict = Verdict::default();
    let expected = status.projections.iter().filter(|projection| !projection.in_making);
    for projection in expected.clone().filter(|projection| projection.state != ProjectionState::Live) {
        verdict.obstacles.push(format!("{} is {}", projection.name, projection.state.name()));
    }
    let name = &status.name;
    if let Some(failing) = status.failing.as_ref().filter(|failing| failing.since.elapsed() >= PATIENCE) {
        let fail = format!("the batches of group {name} fail: {}", failing.reason);
        verdict.obstacles.push(fail.clone());
        verdict.trouble = Some(fail);
    }
    let settled = expected.clone().all(|projection| projection.state == ProjectionState::Live);
    if settled && status.current_as_of.is_some_and(|at| at.elapsed() >= SILENCE_MAX) {
        let silent = format!("group {name} has not been current for more than a minute");
        verdict.obstacles.push(silent.clone());
        verdict.trouble.get_or_insert(silent);
    }
    verdict
}

/// Notes for `lockstep status` why it does not go on, or that it does; whether that could be done.
pub async fn note_trouble(config: &Config, reason: Option<&str>) -> bool {
    let noting = async {
        let target = Session::open(config.target_settings(), "lockstep").await.map_err(|error| error.to_string())?;
        let noted = target.execute("UPDATE lockstep.installation SET trouble = $1", &[&reason]).await;
        noted.map_err(|error| lockstep_connect::describe(&error))
    };
    match noting.await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(error, "noting the trouble");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_down_for_long_is_trouble() {
        let status = CaptureStatus::Reconnecting("refused".to_owned());
        let mut down = None;
        let verdict = of_stream(&status, &mut down);
        assert_eq!((verdict.obstacles.len(), verdict.trouble), (1, None));
        down = Instant::now().checked_sub(PATIENCE);
        assert_eq!(of_stream(&status, &mut down).trouble.as_deref(), Some("the stream is reconnecting: refused"));
        assert_eq!(of_stream(&CaptureStatus::Streaming, &mut down), Verdict::default());
        assert_eq!(down, None);
    }

    #[test]
    fn a_group_whose_batches_fail_is_not_ready() {
        let mut status = GroupStatus {
            name: "g".to_owned(),
            contained_lsn: None,
            current_as_of: Some(Instant::now()),
            batches: 1,
            projections: Vec::new(),
            failing: None,
        };
        assert_eq!(of_group(&status), Verdict::default());
        let since = Instant::now().checked_sub(PATIENCE).unwrap_or_else(Instant::now);
        status.failing = Some(lockstep_refresh::Failing { since, reason: "disk full".to_owned() });
        let verdict = of_group(&status);
        assert_eq!(verdict.trouble.as_deref(), Some("the batches of group g fail: disk full"));
        assert_eq!(verdict.obstacles.len(), 1);
        status.failing = None;
        status.current_as_of = Instant::now().checked_sub(SILENCE_MAX);
        assert!(of_group(&status).trouble.is_some());
    }
}
