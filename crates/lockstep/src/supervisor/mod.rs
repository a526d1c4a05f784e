//! `lockstep run`: sets up, starts capture and groups, watches them, stops them.

mod grouping;
mod in_force;
mod interlude;
mod member;
mod renew;
mod running;
mod setbacks;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use lockstep_capture::{KeepSettings, StreamEnd};
use lockstep_connect::Session;
use lockstep_refresh::{BatchObserver, GroupStatus, RefreshOptions};
use lockstep_wal::Lsn;
use tokio::sync::watch as watched;

use crate::config::Config;
use crate::health::{Health, note_trouble};
use crate::observed::{Instance, Observed};
use crate::preflight::{self, Depth, Preflight};
use crate::reload::{self, Reload};
use crate::{Exit, api, http, lease, slot, telemetry};
use running::{Running, start};
use setbacks::{AGAIN_AFTER, Setback, Setbacks};

/// Longest pause while it is not ready.
const NOT_READY_PAUSE_MAX: Duration = Duration::from_secs(30);

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

/// How running ended, or what is to be done.
enum RoundEnd {
    Stopped,
    CaughtUp,
    /// Set up again in place, for this reason: the stream and the groups that it does not concern run on.
    Renew(String),
    /// Set up anew, for this reason: it can go on no more.
    Again(String),
    /// Set up anew: the stream can go on no more.
    StreamEnded(StreamEnd),
    /// Set up anew with another slot: that is asked for.
    NewSlot,
    /// Set up again with another configuration.
    Reloaded(Box<Config>),
    SetUpFailed(anyhow::Error),
    Failed(anyhow::Error),
}

/// What stays the same for as long as the process runs.
struct Started {
    once: bool,
    health: Health,
    observed: Arc<Observed>,
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
    if !may_set_aside(config, &checked).await {
        for error in checked.errors(telemetry::colours()) {
            eprintln!("{error}\n");
        }
        return Ok(Exit::Failure);
    }
    let metrics = telemetry::start_metrics();
    let health = Health::default();
    let observed = Arc::new(Observed::default());
    observed.becomes(Instance::Starting, None);
    let page = http::serve(config, metrics, health.clone(), Some(observed.clone())).await?;
    let _observing = Aborted(tokio::spawn({
        let observed = observed.clone();
        async move { observed.run().await }
    }));
    let _following = Aborted(tokio::spawn({
        let (health, config) = (health.clone(), config.clone());
        async move { health.follow(&config).await }
    }));
    let reading = start_api(config, once).await?;
    if let Some(published) = &hooks.addresses {
        published.send_replace(Addresses { metrics: page, api: reading.as_ref().map(api::Running::address) });
    }
    let reload = Reload::new(&hooks, reading);
    let started = Started { once, health, observed };
    Supervisor {
        config: config.clone(),
        checked,
        stop,
        hooks,
        reload,
        started,
        has_led: false,
        setbacks: Setbacks::default(),
        slot_was: None,
    }
    .run()
    .await
}

/// Sets up, watches, sets up again.
struct Supervisor {
    config: Config,
    checked: Preflight,
    stop: watched::Receiver<bool>,
    hooks: Hooks,
    reload: Reload,
    started: Started,
    /// Once it has, a set-up that fails is as likely a server on its way back as anything else.
    has_led: bool,
    /// How rounds have ended.
    setbacks: Setbacks,
    /// Where the slot was when the last round began, and how long that round was.
    slot_was: Option<(Lsn, Duration)>,
}

/// Another round, and when.
struct Another {
    reason: String,
    new_slot: bool,
    pause: Duration,
    /// The settings that cost the slot: when they change, it is tried at once.
    settings: Option<KeepSettings>,
}

impl Another {
    fn soon(reason: String) -> Self {
        Self { reason, new_slot: false, pause: AGAIN_AFTER, settings: None }
    }
}

impl Supervisor {
    async fn run(&mut self) -> anyhow::Result<Exit> {
        let mut new_slot = false;
        loop {
            let another = match Box::pin(self.round(new_slot)).await {
                RoundEnd::Stopped | RoundEnd::CaughtUp => return Ok(Exit::Good),
                RoundEnd::SetUpFailed(error) if self.has_led => self.set_up_failed(format!("{error:#}")),
                RoundEnd::SetUpFailed(error) | RoundEnd::Failed(error) => return Err(error),
                RoundEnd::Reloaded(new) => {
                    self.config = *new;
                    self.setbacks.forget();
                    Another::soon("the configuration has changed".to_owned())
                }
                RoundEnd::NewSlot => {
                    self.setbacks.forget();
                    let reason = "a new replication slot is asked for".to_owned();
                    Another { new_slot: true, pause: Duration::ZERO, ..Another::soon(reason) }
                }
                RoundEnd::StreamEnded(end) => self.stream_ended(end).await,
                RoundEnd::Again(reason) | RoundEnd::Renew(reason) => {
                    self.setbacks.after(Setback::Other, tokio::time::Instant::now());
                    Another::soon(reason)
                }
            };
            new_slot = another.new_slot;
            let Another { reason, pause, settings, .. } = another;
            tracing::warn!(reason, new_slot, ?pause, "setting up again");
            note_trouble(&self.config, Some(&reason)).await;
            self.started.health.sets_up_again(reason.clone());
            self.started.observed.becomes(Instance::SettingUpAgain, Some(reason));
            if self.until_ready(pause, settings.as_ref()).await.is_break() {
                return Ok(Exit::Good);
            }
        }
    }

    fn set_up_failed(&mut self, reason: String) -> Another {
        let next = self.setbacks.after(Setback::SetUpFailed(&reason), tokio::time::Instant::now());
        Another { pause: next.pause, ..Another::soon(reason) }
    }

    /// Mostly the set-up mends it. If not, the slot cannot be used, or stands before something that cannot be passed.
    async fn stream_ended(&mut self, end: StreamEnd) -> Another {
        let loss = interlude::why_lost(&self.config, self.slot_was).await;
        let setback = if loss.is_some() { Setback::SlotLost } else { Setback::StreamEnded(&end) };
        let next = self.setbacks.after(setback, tokio::time::Instant::now());
        let reason = match &loss {
            Some(loss) => interlude::of_loss(loss, &next),
            None if next.new_slot => interlude::of_same_end(&end, &next, &self.checked.whole_rows),
            None => end.reason,
        };
        Another { reason, new_slot: next.new_slot, pause: next.pause, settings: loss.map(|loss| loss.settings) }
    }

    /// From the set-up until something ends it. Meanwhile it sets up again in place where that is enough.
    async fn round(&mut self, new_slot: bool) -> RoundEnd {
        let mut stop = self.stop.clone();
        let starting = start(&self.config, &self.checked, &self.hooks, &self.started, new_slot, &mut self.has_led);
        let started = tokio::select! {
            started = Box::pin(starting) => started,
            new = self.reload.wanted(&self.config) => Err(RoundEnd::Reloaded(Box::new(new))),
            _ = stop.wait_for(|stop| *stop) => Err(RoundEnd::Stopped),
        };
        let mut running = match started {
            Ok(running) => running,
            Err(end) => {
                slot::abandon_half_made_slot(&self.config).await;
                return end;
            }
        };
        self.has_led = true;
        self.setbacks.runs();
        loop {
            self.tell(&running);
            let once = self.started.once;
            let watching = running.watch(&self.config, once, self.stop.clone(), &self.hooks, &mut self.reload);
            let end = match Box::pin(watching).await {
                RoundEnd::Renew(reason) => Box::pin(self.renew(&mut running, None, reason)).await,
                RoundEnd::Reloaded(new) if new.is_same_installation(&self.config) => {
                    Box::pin(self.renew(&mut running, Some(*new), "the configuration has changed".to_owned())).await
                }
                end => Some(end),
            };
            if let Some(end) = end {
                self.slot_was = running.slot_was();
                running.finish().await;
                return end;
            }
        }
    }

    fn tell(&self, running: &Running) {
        let statuses = running.statuses();
        let broken = running.in_force.broken.iter().map(|(_, name)| name.clone()).collect();
        let postponed = running.postponed.as_ref().map(|postponed| postponed.obstacle.clone());
        self.started.health.watch(statuses.clone(), running.capture.status(), broken, postponed.clone());
        self.started.observed.becomes(Instance::Leading, postponed);
        if let Some(published) = &self.hooks.statuses {
            published.send_replace(statuses);
        }
    }

    /// Sets up again while everything runs. Returns how that ends the round, if it does.
    async fn renew(&mut self, running: &mut Running, new: Option<Config>, reason: String) -> Option<RoundEnd> {
        tracing::info!(reason, "setting up again, in place");
        let config = new.unwrap_or_else(|| self.config.clone());
        let (hooks, observed) = (&self.hooks, &self.started.observed);
        let renewing = lease::kept_during(&config, async {
            let checked = preflight::run(&config, Depth::Start).await;
            if !may_set_aside(&config, &checked).await {
                return Ok(Err(checked.errors(false).join("; ")));
            }
            running.renew(&config, &checked, hooks, observed).await.map(|()| Ok(checked))
        });
        let mut stop = self.stop.clone();
        let renewed = tokio::select! {
            renewed = Box::pin(renewing) => renewed,
            _ = stop.wait_for(|stop| *stop) => return Some(RoundEnd::Stopped),
        };
        self.config = config;
        match renewed {
            Ok(Ok(checked)) => {
                self.checked = checked;
                None
            }
            Ok(Err(obstacle)) => {
                if running.postpone(reason, obstacle.clone()) {
                    tracing::error!(reason = obstacle, "not ready to set up again; everything else goes on");
                }
                None
            }
            Err(error) => Some(RoundEnd::Again(format!("{error:#}"))),
        }
    }

    /// After a pause, looks again and again until it may go on, or is to stop.
    async fn until_ready(&mut self, mut pause: Duration, settings: Option<&KeepSettings>) -> ControlFlow<()> {
        let mut told: Option<String> = None;
        loop {
            tokio::select! {
                () = interlude::something_done(&self.config, settings), if told.is_none() => self.setbacks.forget(),
                new = self.reload.wanted_within(pause, &self.config) => self.config = new.unwrap_or_else(|| self.config.clone()),
                _ = self.stop.wait_for(|stop| *stop) => return ControlFlow::Break(()),
            }
            let again = tokio::select! {
                again = preflight::run(&self.config, Depth::Start) => again,
                _ = self.stop.wait_for(|stop| *stop) => return ControlFlow::Break(()),
            };
            if may_set_aside(&self.config, &again).await {
                self.checked = again;
                return ControlFlow::Continue(());
            }
            let reason = again.errors(false).join("; ");
            if told.as_ref() != Some(&reason) {
                tracing::error!(reason, "not ready to go on; trying again");
                note_trouble(&self.config, Some(&reason)).await;
                told = Some(reason.clone());
            }
            self.started.health.sets_up_again(reason.clone());
            self.started.observed.becomes(Instance::SettingUpAgain, Some(reason));
            pause = (pause.max(AGAIN_AFTER) * 2).min(NOT_READY_PAUSE_MAX);
        }
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

/// Whether nothing stands in the way, or only what concerns projections that worked before: those are set aside. A new projection must
/// work.
async fn may_set_aside(config: &Config, checked: &Preflight) -> bool {
    if checked.passed() || !checked.only_queries_fail() {
        return checked.passed();
    }
    let Ok(target) = Session::open(config.target_settings(), "lockstep check").await else { return false };
    // Nothing is set up where the table is missing.
    let Ok(rows) = target.query("SELECT name FROM lockstep.projection", &[]).await else { return false };
    let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let fails = |name: &String| checked.failure_of(name).is_some();
    config.projections.iter().map(|projection| &projection.name).filter(|name| fails(name)).all(|name| known.contains(name))
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
