//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

use anyhow::bail;
use lockstep_connect::Session;

/// Nothing that is measured takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_mins(30);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until a query of one boolean says true.
pub(crate) async fn until(session: &Session, condition: &str) -> anyhow::Result<()> {
    let statement = session.prepare(condition).await?;
    let began = Instant::now();
    while !session.query_one(&statement, &[]).await?.get::<_, Option<bool>>(0).unwrap_or(false) {
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {condition}");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Where the WAL ends now.
pub(crate) async fn position(session: &Session) -> anyhow::Result<String> {
    Ok(session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0))
}
