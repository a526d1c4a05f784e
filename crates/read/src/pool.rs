//! A bounded number of sessions to one server.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use lockstep_connect::{ConnectError, Session, Settings};

use crate::error::SourceFault;

/// Words count as similar from here: one letter that is missing or wrong in a word of six or more. `pg_trgm` itself has 0.6, which
/// misses most typing mistakes.
const SIMILAR_FROM: &str = "0.4";

/// How soon the server notices that nobody waits for a query any more.
const NOTICE_THE_END: &str = "SET client_connection_check_interval = '500ms'";

pub(crate) struct Manager {
    settings: Settings,
    statement_timeout: Duration,
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = ConnectError;

    async fn create(&self) -> Result<Session, ConnectError> {
        let session = Session::open(&self.settings, "lockstep read").await?;
        let limit = format!(
            "SET statement_timeout = {}; SET pg_trgm.word_similarity_threshold = {SIMILAR_FROM}",
            self.statement_timeout.as_millis()
        );
        session
            .batch_execute(&limit)
            .await
            .map_err(|cause| ConnectError::Refused { endpoint: self.settings.endpoint().to_string(), cause })?;
        // A request that is given up closes its session, and its query ends. Some operating systems cannot tell the server.
        if let Err(error) = session.batch_execute(NOTICE_THE_END).await {
            tracing::debug!(error = %lockstep_connect::describe(&error), "queries of clients that have gone run to their end");
        }
        Ok(session)
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ConnectError> {
        if session.is_closed() { Err(RecycleError::message("closed")) } else { Ok(()) }
    }
}

/// Sessions for reading, opened when they are needed.
#[derive(Clone)]
pub struct Pool {
    sessions: managed::Pool<Manager>,
    wait: Duration,
}

/// A session of the pool; goes back when dropped.
pub(crate) type Pooled = managed::Object<Manager>;

impl Pool {
    /// At most `size` sessions. A request waits for one no longer than `wait`, and no statement runs longer than `statement_timeout`.
    pub fn new(settings: &Settings, size: usize, wait: Duration, statement_timeout: Duration) -> Self {
        let manager = Manager { settings: settings.clone(), statement_timeout };
        // Without timeouts of its own, building cannot fail.
        let sessions = managed::Pool::builder(manager).max_size(size).build().unwrap_or_else(|error| unreachable!("{error}"));
        Self { sessions, wait }
    }

    pub(crate) async fn get(&self) -> Result<Pooled, SourceFault> {
        match tokio::time::timeout(self.wait, self.sessions.get()).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "no session");
                Err(SourceFault::Unreachable)
            }
            Err(_) => Err(SourceFault::Busy),
        }
    }

    /// The share of its sessions that are in use, 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    pub fn usage(&self) -> f64 {
        let status = self.sessions.status();
        let used = status.size.saturating_sub(status.available);
        used as f64 / status.max_size.max(1) as f64
    }
}

/// A session whose request was given up in the middle must not go back: it may be inside a transaction.
pub(crate) struct Borrowed(Option<Pooled>);

impl Borrowed {
    pub(crate) fn new(session: Pooled) -> Self {
        Self(Some(session))
    }

    pub(crate) fn session(&self) -> &Session {
        match &self.0 {
            Some(session) => session,
            None => unreachable!("it is only taken when it is given back"),
        }
    }

    /// Gives it back: it is outside a transaction.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            drop(managed::Object::take(session));
        }
    }
}

/// Shared among requests.
pub(crate) type Slots = Arc<tokio::sync::Semaphore>;
