//! Another configuration while it runs.

use std::time::Duration;

use lockstep_config::Config;
use lockstep_preflight::{self as preflight, Depth, Preflight};
use tokio::sync::watch;

/// What reads the projections: told of another configuration.
pub type Reading = Box<dyn Fn(&Config) + Send + Sync>;

/// Waits for a wish to read the configuration again, and does what it can without setting up anew.
pub struct Reload {
    wished: Option<watch::Receiver<u64>>,
    /// A wish that is not done with: waiting may be given up in between.
    pending: bool,
    reading: Option<Reading>,
    /// Whether this process maintains what is configured, and does not only read.
    maintains: bool,
}

impl Reload {
    pub(crate) fn new(wished: Option<watch::Receiver<u64>>, reading: Option<Reading>) -> Self {
        Self { wished, pending: false, reading, maintains: true }
    }

    /// Of a process that only reads: nothing has to be maintainable.
    pub fn of_a_reader(wished: watch::Receiver<u64>, reading: Reading) -> Self {
        Self { wished: Some(wished), pending: false, reading: Some(reading), maintains: false }
    }

    /// Returns a configuration that differs in more than what requests see, which changes at once. A file that is wrong changes nothing.
    pub async fn wanted(&mut self, now: &Config) -> Config {
        loop {
            let Some(wished) = &mut self.wished else { return std::future::pending().await };
            if !self.pending && wished.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.pending = true;
            let wanted = self.reloaded(now).await;
            self.pending = false;
            if let Some(new) = wanted {
                return new;
            }
        }
    }

    /// The same for so long; what is wished for until then is done, however long it takes.
    pub(crate) async fn wanted_within(&mut self, limit: Duration, now: &Config) -> Option<Config> {
        if !self.pending {
            let Some(wished) = &mut self.wished else {
                tokio::time::sleep(limit).await;
                return None;
            };
            match tokio::time::timeout(limit, wished.changed()).await {
                Ok(Ok(())) => self.pending = true,
                Ok(Err(_)) => {
                    tokio::time::sleep(limit).await;
                    return None;
                }
                Err(_) => return None,
            }
        }
        let wanted = self.reloaded(now).await;
        self.pending = false;
        wanted
    }

    /// Reads the file; a configuration that everything is to be set up for anew, if it is such a one.
    async fn reloaded(&self, now: &Config) -> Option<Config> {
        let new = match Config::load(&now.path) {
            Ok(new) => Config { prune: now.prune, ..new },
            Err(diagnostic) => {
                tracing::error!("the configuration is not reloaded:\n{}", diagnostic.render(false));
                return None;
            }
        };
        let same = new.is_same_but_for_reading(now);
        if !same && self.maintains {
            // What works is not given up for what does not.
            let checked = preflight::run(&new, Depth::Start).await;
            if !checked.passed() && !only_what_fails_already(&new, now, &checked).await {
                tracing::error!("the configuration is not reloaded:\n{}", checked.errors(false).join("\n"));
                return None;
            }
        }
        if let Some(reading) = &self.reading {
            reading(&new);
        }
        tell_what_wants_a_restart(now, &new, self.reading.is_some());
        tracing::info!(path = %now.path.display(), "the configuration has been read again");
        (!same).then_some(new)
    }
}

/// An address is listened on once; the read API tells of its own.
fn tell_what_wants_a_restart(now: &Config, new: &Config, reads: bool) {
    let address = |config: &Config| config.metrics.map(|listen| listen.address);
    let api = |config: &Config| config.api.as_ref().and_then(|api| api.listen);
    if address(now) != address(new) {
        tracing::warn!("[metrics] listen has changed, and takes effect at the next start: restart lockstep");
    }
    if !reads && api(now) != api(new) {
        tracing::warn!("[api] listen has changed, and takes effect at the next start: restart lockstep");
    }
}

/// Whether nothing fails but projections that fail as they are configured now, too: those are set aside already.
async fn only_what_fails_already(new: &Config, now: &Config, checked: &Preflight) -> bool {
    if !checked.only_queries_fail() {
        return false;
    }
    let before = preflight::run(now, Depth::Start).await;
    let mut failing = new.projections.iter().filter(|projection| checked.failure_of(&projection.name).is_some());
    failing.all(|projection| {
        let as_before = now.projections.iter().any(|before| before.is_same(projection));
        as_before && before.failure_of(&projection.name).is_some()
    })
}
