//! Snapshot pairs at a batch's boundary, on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lockstep_backstop::SnapshotPair;
use lockstep_config::Config;
use lockstep_observe::Observed;
use lockstep_refresh::{BatchObserver, BatchView, GroupCommand, LiveProjection};
use tokio::sync::{mpsc, oneshot};

/// How long to wait for a group's next batch.
const BOUNDARY_MAX: Duration = Duration::from_mins(10);

/// A pair of snapshots, and the projections that were live there.
pub(crate) struct Boundary {
    pub(crate) pair: SnapshotPair,
    pub(crate) live: Vec<LiveProjection>,
}

struct Wanted {
    pair: SnapshotPair,
    reply: oneshot::Sender<anyhow::Result<Boundary>>,
    /// Whether the source's snapshot is taken: the batch in work has it.
    armed: bool,
}

/// Takes pairs for whoever asks, and lets another observer look too.
#[derive(Default)]
pub(crate) struct Boundaries {
    wanted: Mutex<HashMap<String, Wanted>>,
    other: Option<Arc<dyn BatchObserver>>,
    observed: Arc<Observed>,
    /// A schedule and a command may ask at once: they wait for each other.
    turn: tokio::sync::Mutex<()>,
}

impl Boundaries {
    pub(crate) fn new(other: Option<Arc<dyn BatchObserver>>, observed: Arc<Observed>) -> Arc<Self> {
        Arc::new(Self { wanted: Mutex::default(), other, observed, turn: tokio::sync::Mutex::default() })
    }

    fn wanted(&self) -> MutexGuard<'_, HashMap<String, Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a group's next batch and takes its snapshots.
    pub(crate) async fn next(
        &self,
        config: &Config,
        group: &str,
        commands: &mpsc::UnboundedSender<GroupCommand>,
    ) -> anyhow::Result<Boundary> {
        let _turn = self.turn.lock().await;
        let pair = SnapshotPair::open(&config.source, config.target_settings()).await?;
        let (reply, answer) = oneshot::channel();
        self.wanted().insert(group.to_owned(), Wanted { pair, reply, armed: false });
        if commands.send(GroupCommand::Boundary).is_err() {
            bail!("group {group} has ended");
        }
        let answer = tokio::time::timeout(BOUNDARY_MAX, answer).await;
        if answer.is_err() {
            self.wanted().remove(group);
        }
        answer.with_context(|| format!("group {group} has not committed a batch within {BOUNDARY_MAX:?}"))?.context("given up")?
    }

    async fn take_source(&self, batch: &BatchView<'_>) {
        let Some(mut wanted) = self.wanted().remove(batch.group) else { return };
        if wanted.armed {
            // The batch that it was armed by did not commit; that snapshot is of no use.
            if let Err(error) = wanted.pair.release().await {
                drop(wanted.reply.send(Err(error.into())));
                return;
            }
        }
        match wanted.pair.take_source(batch.source).await {
            Ok(()) => {
                wanted.armed = true;
                self.wanted().insert(batch.group.to_owned(), wanted);
            }
            Err(error) => drop(wanted.reply.send(Err(error.into()))),
        }
    }

    async fn take_target(&self, batch: &BatchView<'_>) {
        let Some(wanted) = self.wanted().remove(batch.group) else { return };
        if !wanted.armed {
            self.wanted().insert(batch.group.to_owned(), wanted);
            return;
        }
        let taken = wanted.pair.take_target().await;
        let boundary = Boundary { pair: wanted.pair, live: batch.live.to_vec() };
        // Who has given up does not want to know.
        drop(wanted.reply.send(taken.map(|()| boundary).map_err(Into::into)));
    }
}

impl BatchObserver for Boundaries {
    fn wants(&self, group: &str) -> bool {
        self.wanted().contains_key(group) || self.other.as_ref().is_some_and(|other| other.wants(group))
    }

    fn wants_claims(&self, group: &str) -> bool {
        self.wanted().contains_key(group)
    }

    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>> {
        async move {
            // Somebody may have begun to ask since the view was made: without claims it is of no use to them.
            let has_claims = batch.live.iter().all(|projection| !projection.claims.is_empty());
            if self.wanted().contains_key(batch.group) && batch.viewed && has_claims {
                self.take_source(&batch).await;
            }
            match &self.other {
                Some(other) => other.before_commit(batch).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn after_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, ()> {
        async move {
            self.observed.freshness(batch.group, batch.freshness_seconds);
            self.take_target(&batch).await;
            if let Some(other) = &self.other {
                other.after_commit(batch).await;
            }
        }
        .boxed()
    }
}
