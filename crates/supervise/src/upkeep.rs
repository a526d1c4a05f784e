//! Upkeep of the target that nothing else does: changes and old versions that have been kept for long enough go.

use std::convert::Infallible;
use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_refresh::forget_changes;

use crate::versions;

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// Never returns.
pub(crate) async fn follow(config: &Config) -> Infallible {
    loop {
        if let Err(error) = once(config).await {
            tracing::debug!(error = format!("{error:#}"), "upkeep");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn once(config: &Config) -> anyhow::Result<()> {
    let target = Session::open(config.target_settings(), "lockstep upkeep").await?;
    if let Some(history) = config.feed_history {
        forget_changes(&target, history.as_secs_f64()).await?;
    }
    versions::drop_retired(&target).await
}
