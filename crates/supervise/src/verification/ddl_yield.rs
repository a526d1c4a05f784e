//! Giving way to the application's DDL: what reads for long holds ACCESS SHARE on the application's tables, an `ALTER TABLE` waits for it,
//! and everybody else behind that. So waiters behind our locks are looked for, and what they wait for is let go; it is done again later.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_config::Config;
use lockstep_connect::Session;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(300);

/// The sessions that read for long and are begun again as a whole: they may be between two statements of a transaction.
const ENDED: [&str; 2] = ["lockstep verify", "lockstep backstop"];

/// Counts how often something was let go, so that whoever fails knows why.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivingWay(Arc<AtomicU64>);

impl GivingWay {
    /// How often until now.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Looks for waiters; never returns. `groups` are the names of the groups that run.
    pub(crate) async fn follow(&self, config: &Config, groups: &[String]) -> Infallible {
        let mut kept: Option<Session> = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            if config.yield_to_ddl.is_zero() {
                continue;
            }
            if let Err(error) = self.look(config, groups, &mut kept).await {
                tracing::debug!(error = format!("{error:#}"), "looking for who waits behind us");
                kept = None;
            }
        }
    }

    async fn look(&self, config: &Config, groups: &[String], kept: &mut Option<Session>) -> anyhow::Result<()> {
        let session = match kept {
            Some(session) if !session.is_closed() => session,
            _ => kept.insert(Session::open(&config.source, "lockstep giving way").await?),
        };
        // PostgreSQL cuts application names at 63 bytes.
        let groups = groups.iter().map(|group| format!("lockstep {group}").chars().take(63).collect());
        let names: Vec<String> = ENDED.iter().map(|&name| name.to_owned()).chain(groups).collect();
        let rows = session
            .query(
                "SELECT DISTINCT ON (o.pid) o.pid, o.application_name, o.state = 'active', w.pid, l.relation::regclass::text
                 FROM pg_locks AS l
                 JOIN pg_stat_activity AS w ON w.pid = l.pid AND w.application_name NOT LIKE 'lockstep %'
                 CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS b (pid)
                 JOIN pg_stat_activity AS o ON o.pid = b.pid
                 WHERE NOT l.granted AND l.locktype = 'relation'
                   AND l.waitstart < clock_timestamp() - $1::float8 * interval '1 second'
                   AND o.datname = current_database() AND o.usename = current_user AND o.application_name = ANY ($2)
                 ORDER BY o.pid, l.waitstart",
                &[&config.yield_to_ddl.as_secs_f64(), &names],
            )
            .await?;
        for row in &rows {
            let (pid, name, active): (i32, &str, Option<bool>) = (row.get(0), row.get(1), row.get(2));
            let (waiter, table): (i32, Option<&str>) = (row.get(3), row.get(4));
            let ended = ENDED.contains(&name);
            if !ended && active != Some(true) {
                // A batch between two statements is about to end.
                continue;
            }
            tracing::info!(session = name, waiter, table, "gives way: somebody waits for its lock");
            metrics::counter!("lockstep_gave_way_total", "session" => name.to_owned()).increment(1);
            // Counted first: who fails by it looks afterwards.
            self.0.fetch_add(1, Ordering::AcqRel);
            let let_go = if ended { "SELECT pg_terminate_backend($1)" } else { "SELECT pg_cancel_backend($1)" };
            session.execute(let_go, &[&pid]).await?;
        }
        Ok(())
    }
}
