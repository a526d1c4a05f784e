//! `lockstep run`: sets up, starts capture and groups, watches them, stops them.

mod active_setup;
mod grouping;
mod interlude;
mod member;
mod renew;
mod round;
mod running;
mod setbacks;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use lockstep_capture::{KeepSettings, StreamEnd};
use lockstep_config::Config;
use lockstep_observe::{Health, note_trouble};
use lockstep_observe::{Instance, Observed};
use lockstep_preflight::{self as preflight, Depth, Preflight};
use lockstep_wal::Lsn;
use tokio::sync::watch as watched;

use crate::admission::may_set_aside;
use crate::hooks::Hooks;
use crate::lease;
use crate::reload::{Reading, Reload};
use crate::setup::slot;
use round::{RoundEnd, Started};
use running::{Running, start};
use setbacks::{AGAIN_AFTER, Setback, Setbacks};

/// Longest pause while it is not ready.
const NOT_READY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a supervisor is given.
pub struct Given {
    /// What is wanted.
    pub config: Config,
    /// What was found before anything is changed: nothing stands in the way.
    pub checked: Preflight,
    /// End when everything is caught up with.
    pub once: bool,
    /// Turns true when it is to stop.
    pub stop: watched::Receiver<bool>,
    /// Switches for embedders.
    pub hooks: Hooks,
    /// Told whether everything flows.
    pub health: Health,
    /// Told what runs, and how it fares.
    pub observed: Arc<Observed>,
    /// What reads the projections.
    pub reading: Option<Reading>,
}

/// Runs until it is to stop, or until caught up with `once`.
///
/// # Errors
/// What could not be set up, or why a group could not go on.
pub async fn supervise(given: Given) -> anyhow::Result<()> {
    let Given { config, checked, once, stop, hooks, health, observed, reading } = given;
    let reload = Reload::new(hooks.reload.clone(), reading);
    let started = Started { once, health, observed };
    let setbacks = Setbacks::default();
    Supervisor { config, checked, stop, hooks, reload, started, has_led: false, setbacks, slot_was: None }.run().await
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
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut new_slot = false;
        loop {
            let another = match Box::pin(self.round(new_slot)).await {
                RoundEnd::Stopped | RoundEnd::CaughtUp => return Ok(()),
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
                return Ok(());
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
            started = Box::pin(starting) => started.map_err(RoundEnd::SetUpFailed),
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
