//! `lockstep run`: looks whether everything is right, serves those who look, and supervises.

use std::sync::Arc;

use lockstep_config::Config;
use lockstep_observe::{Health, Instance, Observed};
use lockstep_preflight::{self as preflight, Depth};
use lockstep_serve::{admin, api, start_metrics};
use lockstep_supervise::{Given, Hooks, Reading, may_set_aside, supervise};
use tokio::sync::watch as watched;

use crate::signals::{count_hangups, wait_for_signal};
use crate::{Exit, logging};

/// What a running projector listens on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Metrics, probes and the page.
    pub metrics: Option<std::net::SocketAddr>,
    /// The read API.
    pub api: Option<std::net::SocketAddr>,
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
    let hangups = tokio::spawn(count_hangups(reload_sender));
    let hooks = Hooks { reload: Some(reload), ..Hooks::default() };
    let result = run_until(config, once, stop, hooks, None).await;
    signals.abort();
    hangups.abort();
    result
}

/// Runs until `stop` turns true, or until caught up with `once`. What is listened on is published as `addresses`.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    config: &Config,
    once: bool,
    mut stop: watched::Receiver<bool>,
    hooks: Hooks,
    addresses: Option<watched::Sender<Addresses>>,
) -> anyhow::Result<Exit> {
    let checked = tokio::select! {
        checked = preflight::run(config, Depth::Start) => checked,
        _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
    };
    if !may_set_aside(config, &checked).await {
        for error in checked.errors(logging::colours()) {
            eprintln!("{error}\n");
        }
        return Ok(Exit::Failure);
    }
    let metrics = start_metrics();
    let health = Health::default();
    let observed = Arc::new(Observed::default());
    observed.becomes(Instance::Starting, None);
    let page = admin::serve(config, metrics, health.clone(), Some(observed.clone())).await?;
    let _observing = Aborted(tokio::spawn({
        let observed = observed.clone();
        async move { observed.run().await }
    }));
    let _following = Aborted(tokio::spawn({
        let (health, config) = (health.clone(), config.clone());
        async move { health.follow(&config).await }
    }));
    let reading = start_api(config, once).await?;
    if let Some(published) = &addresses {
        published.send_replace(Addresses { metrics: page, api: reading.as_ref().map(api::Running::address) });
    }
    let reading = reading.map(|reading| -> Reading { Box::new(move |config| reading.configure(config)) });
    supervise(Given { config: config.clone(), checked, once, stop, hooks, health, observed, reading }).await?;
    Ok(Exit::Good)
}

/// Serves reads, if that is configured; also while another instance writes.
async fn start_api(config: &Config, once: bool) -> anyhow::Result<Option<api::Running>> {
    let Some((api, address)) = config.api.as_ref().and_then(|api| Some((api, api.listen?))) else { return Ok(None) };
    if once {
        return Ok(None);
    }
    api::serve(config, api, address).await.map(Some)
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
