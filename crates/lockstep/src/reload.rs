//! Another configuration while it runs, and upkeep that nothing else does.

use std::time::Duration;

use lockstep_connect::Session;
use lockstep_refresh::forget_changes;
use tokio::sync::watch;

use crate::api;
use crate::config::Config;
use crate::preflight::{self, Depth};
use crate::supervisor::{Hooks, only_known_ones_fail};

/// How often old changes are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// Waits for a wish to read the configuration again, and does what it can without setting up anew.
pub(crate) struct Reload {
    wished: Option<watch::Receiver<u64>>,
    reading: Option<api::Running>,
}

impl Reload {
    pub(crate) fn new(hooks: &Hooks, reading: Option<api::Running>) -> Self {
        Self { wished: hooks.reload.clone(), reading }
    }

    /// Returns a configuration that differs in more than what requests see, which changes at once. A file that is wrong changes nothing.
    pub(crate) async fn wanted(&mut self, now: &Config) -> Config {
        loop {
            let Some(wished) = &mut self.wished else { return std::future::pending().await };
            if wished.changed().await.is_err() {
                return std::future::pending().await;
            }
            let new = match Config::load(&now.path) {
                Ok(new) => Config { prune: now.prune, ..new },
                Err(diagnostic) => {
                    tracing::error!("the configuration is not reloaded:\n{}", diagnostic.render(false));
                    continue;
                }
            };
            let same = new.is_same_but_for_reading(now);
            // What works is not given up for what does not.
            if !same {
                let checked = preflight::run(&new, Depth::Start).await;
                if !checked.passed() && !only_known_ones_fail(&new, &checked).await {
                    tracing::error!("the configuration is not reloaded:\n{}", checked.errors(false).join("\n"));
                    continue;
                }
            }
            if let Some(reading) = &self.reading {
                reading.configure(&new);
            }
            tracing::info!(path = %now.path.display(), "the configuration has been read again");
            if !same {
                return new;
            }
        }
    }
}

/// Counts SIGHUPs.
pub(crate) async fn count_hangups(counted: watch::Sender<u64>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        counted.send_modify(|count| *count += 1);
    }
}

/// Forgets changes that are older than configured. Never returns.
pub(crate) async fn keep_feed_short(config: &Config) {
    let Some(history) = config.feed_history else { return std::future::pending().await };
    loop {
        let forgotten = async {
            let target = Session::open(config.target_settings(), "lockstep feed").await?;
            forget_changes(&target, history.as_secs_f64()).await?;
            anyhow::Ok(())
        };
        if let Err(error) = forgotten.await {
            tracing::debug!(error = format!("{error:#}"), "forgetting old changes");
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}
