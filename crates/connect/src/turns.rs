//! Locks that readers stand in the way of, taken in short turns.
//!
//! Whoever waits for an ACCESS EXCLUSIVE lock makes everybody wait who comes after it, as long as it waits itself. So it waits a moment
//! only, lets those that have queued up behind it go ahead, and tries again; each turn is somewhat longer than the one before, so that
//! readers that follow each other without a gap do not keep it out for ever.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

/// The first turn, and the longest: below `deadlock_timeout`, so that it is never a reader whose transaction is ended.
const TURN_MIN: Duration = Duration::from_millis(50);
const TURN_MAX: Duration = Duration::from_millis(300);

/// The pause between turns, in lengths of the turn: at first, and after a while, when it is somebody who stays.
const PAUSE: u32 = 1;
const LATER: u32 = 4;
const LATER_AFTER: Duration = Duration::from_secs(20);

/// How often to say who stands in the way.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The tries of one piece of work, each a transaction of its own.
#[derive(Debug)]
pub struct LockTurns {
    what: String,
    schemas: Vec<String>,
    patience: Option<Duration>,
    began: Instant,
    turn: Duration,
    told: Instant,
}

impl LockTurns {
    /// For work on objects of `schemas`; `what` names it in the log. Without `patience` it is tried for ever.
    pub fn new(what: impl Into<String>, schemas: &[&str], patience: Option<Duration>) -> Self {
        let schemas = schemas.iter().map(|&schema| schema.to_owned()).collect();
        Self { what: what.into(), schemas, patience, began: Instant::now(), turn: TURN_MIN, told: Instant::now() }
    }

    /// The statement that a try's transaction begins with.
    pub fn setting(&self) -> String {
        format!("SET LOCAL lock_timeout = {}", self.turn.as_millis())
    }

    /// The same for work on several tables, which are locked at once: a time-out of locks alone holds for each of them, and who reads the
    /// first would stand while the last is waited for. `tables` are quoted.
    pub fn locking(&self, tables: &[String]) -> String {
        if tables.is_empty() {
            return self.setting();
        }
        format!(
            "{}; SET LOCAL statement_timeout = {}; LOCK TABLE {}; SET LOCAL statement_timeout = 0",
            self.setting(),
            self.turn.as_millis(),
            tables.join(", ")
        )
    }

    /// Whether a failed try, rolled back already, is to be repeated now; waits for the next turn. `sqlstate` is its error's, and
    /// `session` is asked who stands in the way.
    pub async fn again(&mut self, session: &Client, sqlstate: Option<&str>) -> bool {
        if !is_about_locks(sqlstate) || self.patience.is_some_and(|patience| self.began.elapsed() >= patience) {
            return false;
        }
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let holders = self.holders(session).await;
            tracing::warn!(holders, "{} waits for others to let go", self.what);
        }
        let pause = if self.began.elapsed() < LATER_AFTER { PAUSE } else { LATER };
        tokio::time::sleep(self.turn * pause).await;
        self.turn = TURN_MAX.min(self.turn * 3 / 2);
        true
    }

    /// Who has locks on objects of the schemas, oldest transaction first, for people.
    pub async fn holders(&self, session: &Client) -> String {
        let query = "SELECT format('pid %s (%s, user %s, %s, transaction open for %s s)', a.pid,
                            coalesce(nullif(a.application_name, ''), 'no application name'), a.usename, a.state,
                            round(extract(epoch FROM clock_timestamp() - a.xact_start)))
                     FROM pg_stat_activity AS a
                     WHERE a.pid <> pg_backend_pid() AND a.pid IN (
                         SELECT l.pid FROM pg_locks AS l
                         JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
                         WHERE l.granted AND n.nspname = ANY ($1)
                           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                     ORDER BY a.xact_start LIMIT 3";
        match session.query(query, &[&self.schemas]).await {
            Ok(rows) => rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect::<Vec<_>>().join(", "),
            Err(error) => crate::describe(&error),
        }
    }
}

/// Lock not available, deadlock detected, statement timed out: the only one that may is `LOCK TABLE`.
pub fn is_about_locks(sqlstate: Option<&str>) -> bool {
    matches!(sqlstate, Some("55P03" | "40P01" | "57014"))
}
