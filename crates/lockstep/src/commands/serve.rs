//! `lockstep serve`: the read API alone.

use std::net::SocketAddr;

use tokio::sync::watch;

use crate::config::Config;
use crate::reload::{Reload, count_hangups};
use crate::supervisor::wait_for_signal;
use crate::{Exit, api, http, telemetry};

/// Where it listens, unless it is said.
const DEFAULT_ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);

/// Serves reads until SIGTERM or SIGINT. SIGHUP reads the configuration again.
///
/// # Errors
/// An address cannot be listened on.
pub async fn serve(config: &Config, listen: Option<SocketAddr>) -> anyhow::Result<Exit> {
    let Some(api_config) = &config.api else {
        eprintln!("error: {} has no [api]; add it, with listen = \"127.0.0.1:8080\" for example", config.path.display());
        return Ok(Exit::Usage);
    };
    let address = listen.or(api_config.listen).unwrap_or_else(|| SocketAddr::from(DEFAULT_ADDRESS));
    http::serve(config, telemetry::start_metrics(), http::Health::of_a_reader(), None).await?;
    let running = api::serve(config, api_config, address).await?;
    let (sender, wished) = watch::channel(0);
    let mut reload = Reload::of_a_reader(wished, running);
    let hangups = tokio::spawn(count_hangups(sender));
    let mut config = config.clone();
    loop {
        tokio::select! {
            () = wait_for_signal() => break,
            new = reload.wanted(&config) => config = new,
        }
    }
    hangups.abort();
    Ok(Exit::Good)
}
