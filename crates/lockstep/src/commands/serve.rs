//! `lockstep serve`: the read API alone.

use std::net::SocketAddr;
use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::{ConnectError, Session, Settings};
use lockstep_observe::Health;
use lockstep_serve::{admin, api, start_metrics};
use lockstep_supervise::Reload;
use tokio::sync::watch;

use crate::Exit;
use crate::signals::{count_hangups, wait_for_signal};

/// Where it listens, unless it is said.
const DEFAULT_ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);

/// How often to look whether what is read is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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
    let settings = api_config.settings.clone().unwrap_or_else(|| config.target_settings().clone());
    // A server that is not there may come; a pooler never becomes one.
    if let Err(error @ ConnectError::Pooled { .. }) = Session::open(&settings, "lockstep serve").await {
        eprintln!("error: {error}\n  help: {}", error.remedy());
        return Ok(Exit::Failure);
    }
    let health = Health::of_a_reader();
    admin::serve(config, start_metrics(), health.clone(), None).await?;
    let running = api::serve(config, api_config, address).await?;
    let (sender, wished) = watch::channel(0);
    let mut reload = Reload::of_a_reader(wished, Box::new(move |config| running.configure(config)));
    let hangups = tokio::spawn(count_hangups(sender));
    let looking = tokio::spawn(look_whether_it_is_there(settings, health));
    let mut config = config.clone();
    loop {
        tokio::select! {
            () = wait_for_signal() => break,
            new = reload.wanted(&config) => config = new,
        }
    }
    hangups.abort();
    looking.abort();
    Ok(Exit::Good)
}

/// Tells readiness and log whether what is read can be reached. Never returns.
async fn look_whether_it_is_there(settings: Settings, health: Health) {
    let mut kept: Option<Session> = None;
    let mut told = None;
    loop {
        let found = match &kept {
            Some(session) => session.batch_execute("SELECT").await.map_err(|error| lockstep_connect::describe(&error)),
            None => match Session::open(&settings, "lockstep serve").await {
                Ok(session) => {
                    kept = Some(session);
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            },
        };
        let problem = found.err();
        if problem.is_some() {
            kept = None;
        }
        health.reaches(problem.clone());
        match (&told, &problem) {
            (None, Some(problem)) => tracing::warn!(problem, "the database cannot be read"),
            (Some(_), None) => tracing::info!("the database can be read again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        told = problem;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
