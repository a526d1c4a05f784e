//! An end for commands that wait for a projector: when nothing has moved for a while.

use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::Session;
use tokio::time::Instant;

/// How often to look.
const EVERY: Duration = Duration::from_millis(500);

/// What moves: batches and positions of groups, states and rows of projections, rows compared.
const PROGRESS: &str = "SELECT concat_ws(' ',
        (SELECT concat(sum(batches), max(recorded_lsn)) FROM lockstep.checkpoint),
        (SELECT concat(sum(row_count), string_agg(concat(name, state, build_position::text, ready, indexes_built), ',' ORDER BY name))
         FROM lockstep.projection),
        (SELECT concat(count(*), sum(compared)) FROM lockstep.verification))";

/// Whether a session of ours is at work: not waiting for a lock, a standby or the clock.
const AT_WORK: &str = "SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE application_name LIKE 'lockstep%' AND backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()
      AND coalesce(wait_event_type, '') NOT IN ('Lock', 'Timeout', 'Client') AND coalesce(wait_event, '') <> 'SyncRep')";

/// Looks whether anything moves.
pub(super) struct Stall {
    patience: Duration,
    last: String,
    moved: Instant,
    looked: Instant,
    source: Option<Session>,
}

impl Stall {
    pub(super) async fn new(config: &Config, patience: Duration) -> Self {
        // With one database its sessions are the target's.
        let source = match &config.target {
            Some(_) => Session::open(&config.source, "lockstep command").await.ok(),
            None => None,
        };
        Self { patience, last: String::new(), moved: Instant::now(), looked: Instant::now(), source }
    }

    /// Why it is given up, if nothing has moved for long enough.
    pub(super) async fn look(&mut self, target: &Session) -> Result<Option<String>, tokio_postgres::Error> {
        if self.looked.elapsed() < EVERY {
            return Ok(None);
        }
        self.looked = Instant::now();
        let progress: String = target.query_one(PROGRESS, &[]).await?.get(0);
        if progress != self.last || self.is_at_work(target).await? {
            self.last = progress;
            self.moved = Instant::now();
            return Ok(None);
        }
        if self.moved.elapsed() < self.patience {
            return Ok(None);
        }
        let trouble: Option<String> =
            target.query_opt("SELECT trouble FROM lockstep.installation", &[]).await?.and_then(|row| row.get(0));
        let trouble = trouble.map_or_else(String::new, |trouble| format!(": {trouble}"));
        Ok(Some(format!("given up: nothing has moved for {} s{trouble} (lockstep status tells more)", self.patience.as_secs())))
    }

    async fn is_at_work(&self, target: &Session) -> Result<bool, tokio_postgres::Error> {
        if target.query_one(AT_WORK, &[]).await?.get(0) {
            return Ok(true);
        }
        match &self.source {
            // A source that cannot be asked does not work.
            Some(source) => Ok(source.query_one(AT_WORK, &[]).await.is_ok_and(|row| row.get(0))),
            None => Ok(false),
        }
    }
}
