//! `lockstep run`: sets up, starts capture and groups, watches them, stops them.

mod grouping;
mod running;

use std::sync::Arc;
use std::time::Duration;

use lockstep_connect::Session;
use lockstep_refresh::{BatchObserver, GroupStatus, RefreshOptions};
use tokio::sync::watch as watched;

use crate::config::Config;
use crate::observed::{Instance, Observed};
use crate::preflight::{self, Depth, Preflight};
use crate::reload::{self, Reload};
use crate::{Exit, api, http, telemetry};
use running::start;

/// Pause before another set-up.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Undefined object (slot or publication), object not in prerequisite state (an invalidated slot).
const NEW_SLOT_CODES: [&str; 2] = ["SQLSTATE 42704", "SQLSTATE 55000"];

/// A stream that ends again within this time after a restart needs a new slot.
const RESTART_WINDOW: Duration = Duration::from_secs(30);

/// Switches for embedders: the demonstration and tests.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Told about every batch.
    pub observer: Option<Arc<dyn BatchObserver>>,
    /// Tuning of batches.
    pub options: RefreshOptions,
    /// Where the statuses of the groups are published.
    pub statuses: Option<watched::Sender<Vec<watched::Receiver<GroupStatus>>>>,
    /// No progress bar.
    pub quiet: bool,
    /// Nothing happens by schedule: no view is made or refreshed, nothing verified.
    pub no_schedules: bool,
    /// How often to look at the source's schema, if not as usual.
    pub look_at_schema_every: Option<Duration>,
    /// Changes when the configuration file is to be read again.
    pub reload: Option<watched::Receiver<u64>>,
    /// Where what is listened on is published.
    pub addresses: Option<watched::Sender<Addresses>>,
}

/// What a running projector listens on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Metrics, probes and the page.
    pub metrics: Option<std::net::SocketAddr>,
    /// The read API.
    pub api: Option<std::net::SocketAddr>,
}

/// How a round of running ended.
enum RoundEnd {
    Stopped,
    CaughtUp,
    /// Set up again, for this reason.
    Again(String),
    /// Set up again with another configuration.
    Reloaded(Box<Config>),
    SetUpFailed(anyhow::Error),
    Failed(anyhow::Error),
}

/// Runs until SIGTERM or SIGINT, or until caught up with `once`.
///
/// # Errors
/// What could not be set up, or why a group could not go on.
pub async fn run(config: &Config, once: bool) -> anyhow::Result<Exit> {
    let (stop_sender, stop) = watched::channel(false);
    let signals = tokio::spawn(async move {
        wait_for_signal().await;
        tracing::info!("stopping: the batch in work is finished first");
        stop_sender.send_replace(true);
        // A second signal means now.
        wait_for_signal().await;
        std::process::exit(Exit::Failure as i32);
    });
    let (reload_sender, reload) = watched::channel(0);
    let hangups = tokio::spawn(reload::count_hangups(reload_sender));
    let hooks = Hooks { reload: Some(reload), ..Hooks::default() };
    let result = run_until(config, once, stop, hooks).await;
    signals.abort();
    hangups.abort();
    result
}

/// Runs until `stop` turns true, or until caught up with `once`.
///
/// # Errors
/// As [`run`].
pub async fn run_until(config: &Config, once: bool, mut stop: watched::Receiver<bool>, hooks: Hooks) -> anyhow::Result<Exit> {
    let checked = tokio::select! {
        checked = preflight::run(config, Depth::Start) => checked,
        _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
    };
    if !checked.passed() && !only_known_ones_fail(config, &checked).await {
        for error in checked.errors(telemetry::colours()) {
            eprintln!("{error}\n");
        }
        return Ok(Exit::Failure);
    }
    let metrics = telemetry::start_metrics();
    let health = http::Health::default();
    let observed = Arc::new(Observed::default());
    observed.becomes(Instance::Starting, None);
    let page = http::serve(config, metrics, health.clone(), Some(observed.clone())).await?;
    let _observing = Aborted(tokio::spawn({
        let observed = observed.clone();
        async move { observed.run().await }
    }));
    let reading = start_api(config, once).await?;
    if let Some(published) = &hooks.addresses {
        published.send_replace(Addresses { metrics: page, api: reading.as_ref().map(api::Running::address) });
    }
    let mut reload = Reload::new(&hooks, reading);
    let mut config = config.clone();
    let mut checked = checked;
    let mut new_slot = false;
    let mut has_run = false;
    loop {
        let began = tokio::time::Instant::now();
        let reason =
            match round(&config, &checked, once, stop.clone(), &hooks, &health, new_slot, &mut has_run, &mut reload, &observed)
                .await
            {
                RoundEnd::Stopped | RoundEnd::CaughtUp => return Ok(Exit::Good),
                // Once it has run, a set-up that fails is as likely a server on its way back as anything else.
                RoundEnd::SetUpFailed(error) if has_run => format!("{error:#}"),
                RoundEnd::SetUpFailed(error) | RoundEnd::Failed(error) => return Err(error),
                RoundEnd::Reloaded(new) => {
                    config = *new;
                    new_slot = false;
                    "the configuration has changed".to_owned()
                }
                RoundEnd::Again(reason) => {
                    // Mostly the set-up mends it (the slot is gone). If not, the slot itself cannot be used.
                    new_slot = began.elapsed() < RESTART_WINDOW && NEW_SLOT_CODES.iter().any(|code| reason.contains(code));
                    reason
                }
            };
        tracing::warn!(reason, new_slot, "setting up again");
        observed.becomes(Instance::SettingUpAgain, Some(reason));
        loop {
            tokio::select! {
                new = reload.wanted_within(AGAIN_AFTER, &config) => config = new.unwrap_or(config),
                _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
            }
            let again = tokio::select! {
                again = preflight::run(&config, Depth::Start) => again,
                _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
            };
            // A query that has begun to fail is its own projection's fault; the others go on.
            if again.passed() || only_known_ones_fail(&config, &again).await {
                checked = again;
                break;
            }
            let reason = again.errors(false).join("; ");
            tracing::error!(reason, "not ready to go on; trying again");
            note_trouble(&config, &reason).await;
            observed.becomes(Instance::SettingUpAgain, Some(reason));
        }
    }
}

/// Notes for `lockstep status` why it does not go on, if the target can be reached.
async fn note_trouble(config: &Config, reason: &str) {
    let Ok(target) = Session::open(config.target_settings(), "lockstep").await else { return };
    if let Err(error) = target.execute("UPDATE lockstep.installation SET trouble = $1", &[&reason]).await {
        tracing::debug!(error = %lockstep_connect::describe(&error), "noting the trouble");
    }
}

/// Serves reads, if that is configured; also while another instance writes.
async fn start_api(config: &Config, once: bool) -> anyhow::Result<Option<api::Running>> {
    let Some((api, address)) = config.api.as_ref().and_then(|api| Some((api, api.listen?))) else { return Ok(None) };
    if once {
        return Ok(None);
    }
    api::serve(config, api, address).await.map(Some)
}

/// Whether nothing stands in the way but queries of projections that worked before: those are set aside. A new projection must work.
async fn only_known_ones_fail(config: &Config, checked: &Preflight) -> bool {
    if !checked.only_queries_fail() {
        return false;
    }
    let Ok(target) = Session::open(config.target_settings(), "lockstep check").await else { return false };
    // Nothing is set up where the table is missing.
    let Ok(rows) = target.query("SELECT name FROM lockstep.projection", &[]).await else { return false };
    let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let fails = |name: &String| checked.failure_of(name).is_some();
    config.projections.iter().map(|projection| &projection.name).filter(|name| fails(name)).all(|name| known.contains(name))
}

#[allow(clippy::too_many_arguments)]
async fn round(
    config: &Config,
    checked: &Preflight,
    once: bool,
    mut stop: watched::Receiver<bool>,
    hooks: &Hooks,
    health: &http::Health,
    new_slot: bool,
    has_run: &mut bool,
    reload: &mut Reload,
    observed: &Arc<Observed>,
) -> RoundEnd {
    let started = tokio::select! {
        started = Box::pin(start(config, checked, once, hooks, new_slot, has_run, observed)) => started,
        new = reload.wanted(config) => return RoundEnd::Reloaded(Box::new(new)),
        _ = stop.wait_for(|stop| *stop) => return RoundEnd::Stopped,
    };
    match started {
        Ok(running) => {
            *has_run = true;
            health.watch(running.statuses.clone(), running.capture.status(), running.broken.clone());
            observed.becomes(Instance::Leading, None);
            if let Some(statuses) = &hooks.statuses {
                statuses.send_replace(running.statuses.clone());
            }
            Box::pin(running.watch(config, checked, once, stop, hooks, reload)).await
        }
        Err(error) => RoundEnd::SetUpFailed(error),
    }
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns at SIGTERM or SIGINT.
pub(crate) async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
