//! Writers: at a steady rate, each commit changing another row; or as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lockstep_connect::{Session, Settings};
use tokio::time::MissedTickBehavior;

/// Writers share the rate, so that commits overlap as an application's do.
const WRITERS: u32 = 4;

/// Of every window, so much at its beginning has no weight.
const LEAD: Duration = Duration::from_secs(1);

/// A commit that is to be made: which statement, and the key of the row, which is its `$1` as text.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) statement: usize,
    pub(crate) key: String,
}

/// What was written at a rate.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// What has weight.
    pub(crate) changes: Vec<Change>,
    /// Commits a second that were reached.
    pub(crate) rate: f64,
}

impl Written {
    /// The keys of the rows that one of the statements changed.
    pub(crate) fn keys(&self, statement: usize) -> Vec<&str> {
        self.changes.iter().filter(|change| change.statement == statement).map(|change| change.key.as_str()).collect()
    }
}

/// Makes changes in turn, `rate` a second, for a window, or until there are no more.
#[allow(clippy::cast_precision_loss)]
pub(crate) async fn paced(
    settings: &Settings,
    statements: &[&str],
    changes: Vec<Change>,
    rate: u32,
    window: Duration,
) -> anyhow::Result<Written> {
    let changes: Arc<[Change]> = changes.into();
    let next = Arc::new(AtomicUsize::new(0));
    let sessions = try_join_all((0..WRITERS).map(|_| prepared(settings, statements))).await?;
    let pace = Duration::from_secs(1) * WRITERS / rate;
    let began = Instant::now();
    let end = began + LEAD + window;
    let writers = (0..WRITERS).zip(sessions).map(|(number, (session, statements))| {
        let (changes, next) = (changes.clone(), next.clone());
        tokio::spawn(async move {
            let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + pace * number / WRITERS, pace);
            // A writer that was held up makes up for it: the rate is what is asked for.
            ticker.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut weighty = Vec::new();
            loop {
                ticker.tick().await;
                let now = Instant::now();
                if now >= end {
                    return anyhow::Ok(weighty);
                }
                let Some(change) = changes.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(weighty) };
                session.execute(&statements[change.statement], &[&change.key]).await?;
                if now >= began + LEAD {
                    weighty.push(change.clone());
                }
            }
        })
    });
    let mut written = Written::default();
    for writer in writers.collect::<Vec<_>>() {
        written.changes.extend(writer.await??);
    }
    written.rate = written.changes.len() as f64 / began.elapsed().saturating_sub(LEAD).as_secs_f64();
    Ok(written)
}

/// Commits a second of several sessions, each of which changes rows of its own as fast as it can.
#[allow(clippy::cast_precision_loss)]
pub(crate) async fn saturated(settings: &Settings, statement: &str, keys: &[String], window: Duration) -> anyhow::Result<f64> {
    let statements = [statement];
    let sessions = try_join_all((0..WRITERS).map(|_| prepared(settings, &statements))).await?;
    let share = keys.len() / sessions.len();
    let began = Instant::now();
    let writers = sessions.into_iter().zip(keys.chunks(share.max(1))).map(|((session, statements), keys)| {
        let keys = keys.to_vec();
        tokio::spawn(async move {
            let mut commits = 0_usize;
            for key in keys.iter().cycle() {
                if began.elapsed() >= LEAD + window {
                    break;
                }
                session.execute(&statements[0], &[key]).await?;
                commits += usize::from(began.elapsed() >= LEAD);
            }
            anyhow::Ok(commits)
        })
    });
    let mut commits = 0;
    for writer in writers.collect::<Vec<_>>() {
        commits += writer.await??;
    }
    Ok(commits as f64 / began.elapsed().saturating_sub(LEAD).as_secs_f64())
}

async fn prepared(settings: &Settings, statements: &[&str]) -> anyhow::Result<(Session, Vec<tokio_postgres::Statement>)> {
    let session = Session::open(settings, "lockstep bench writer").await?;
    let mut prepared = Vec::new();
    for statement in statements {
        prepared.push(session.prepare(statement).await?);
    }
    Ok((session, prepared))
}

/// Texts that a query of one column returns.
pub(crate) async fn texts(session: &Session, query: &str) -> anyhow::Result<Vec<String>> {
    Ok(session.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}
