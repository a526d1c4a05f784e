//! Proof and figures: compares every projection with its defining query at a batch's snapshot, in the background, and collects
//! freshness.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lockstep_backstop::{Comparison, SnapshotPair, Subject, compare_in_one_session};
use lockstep_config::Config;
use lockstep_refresh::{BatchObserver, BatchView, LiveProjection};
use serde::Serialize;

/// How often each group is compared.
const INTERVAL: Duration = Duration::from_secs(4);

/// Compares batches as they pass.
pub(super) struct Verifier {
    config: Config,
    state: Arc<Mutex<State>>,
    measuring: AtomicBool,
    /// The pair of the batch in work, between its two calls, by group.
    taken: tokio::sync::Mutex<BTreeMap<String, SnapshotPair>>,
}

#[derive(Default)]
struct State {
    report: Report,
    last: BTreeMap<String, Instant>,
    /// A comparison of the group is under way.
    busy: BTreeMap<String, bool>,
    live: BTreeMap<String, LiveProjection>,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    /// By projection.
    pub(super) comparisons: BTreeMap<String, Tally>,
    /// Seconds from commit to visible, one for each transaction and group.
    #[serde(skip)]
    pub(super) freshness: Vec<f64>,
    /// Batches committed while measuring.
    pub(super) batches: u64,
    /// Errors of comparisons.
    pub(super) errors: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Tally {
    pub(super) compared: u64,
    pub(super) different: u64,
    pub(super) rows: i64,
}

impl Report {
    /// Whether every projection was compared and all comparisons were equal.
    pub(super) fn proves(&self, projections: &[&str]) -> bool {
        self.errors.is_empty()
            && projections
                .iter()
                .all(|name| self.comparisons.get(*name).is_some_and(|tally| tally.compared > 0 && tally.different == 0))
    }

    /// The `share` quantile of freshness in milliseconds.
    pub(super) fn freshness_ms(&self, share: f64) -> Option<f64> {
        quantile(&self.freshness, share).map(|seconds| seconds * 1000.0)
    }
}

/// The value below which `share` of the values lie.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub(super) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

impl Verifier {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        // Fails now rather than in the middle of the show.
        drop(SnapshotPair::open(&config.source, config.target_settings()).await?);
        Ok(Self {
            config: config.clone(),
            state: Arc::default(),
            measuring: AtomicBool::new(false),
            taken: tokio::sync::Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on freshness counts: the build is not the workload.
    pub(super) fn start_measuring(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    pub(super) fn report(&self) -> Report {
        self.state().report.clone()
    }

    /// Compares everything once more, when the source stands still and all is visible.
    pub(super) async fn final_comparison(&self) -> anyhow::Result<()> {
        let live: Vec<LiveProjection> =
            self.state().live.values().filter(|projection| !projection.depends_on_time).cloned().collect();
        let session = lockstep_connect::Session::open(&self.config.source, "lockstep demo").await?;
        session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        for projection in live {
            let comparison = compare_in_one_session(&session, &subject(&projection)).await?;
            record(&self.state, &projection.name, comparison);
        }
        session.batch_execute("ROLLBACK").await?;
        Ok(())
    }

    async fn before(&self, batch: BatchView<'_>) -> Result<(), String> {
        if batch.live.is_empty() {
            return Ok(());
        }
        let due = {
            let mut state = self.state();
            for projection in batch.live {
                state.live.insert(projection.name.clone(), projection.clone());
            }
            let idle = !state.busy.get(batch.group).copied().unwrap_or(false);
            idle && state.last.get(batch.group).is_none_or(|last| last.elapsed() >= INTERVAL)
        };
        if !due {
            return Ok(());
        }
        // What depends on the clock equals its query at this batch's time and at no other: compare it here.
        for projection in batch.live.iter().filter(|projection| projection.depends_on_time) {
            match compare_in_one_session(batch.target, &subject(projection)).await {
                Ok(comparison) => record(&self.state, &projection.name, comparison),
                Err(error) => return Err(lockstep_connect::describe(&error)),
            }
        }
        let pair =
            SnapshotPair::open(&self.config.source, self.config.target_settings()).await.map_err(|error| error.to_string())?;
        pair.take_source(batch.source).await.map_err(|error| error.to_string())?;
        self.taken.lock().await.insert(batch.group.to_owned(), pair);
        Ok(())
    }

    async fn after(&self, batch: BatchView<'_>) {
        if self.measuring.load(Ordering::Relaxed) {
            let mut state = self.state();
            state.report.batches += 1;
            state.report.freshness.extend_from_slice(batch.freshness_seconds);
        }
        let Some(pair) = self.taken.lock().await.remove(batch.group) else { return };
        if let Err(error) = pair.take_target().await {
            self.state().report.errors.push(error.to_string());
            return;
        }
        let group = batch.group.to_owned();
        {
            let mut state = self.state();
            state.busy.insert(group.clone(), true);
            state.last.insert(group.clone(), Instant::now());
        }
        let subjects: Vec<Subject> = batch.live.iter().filter(|projection| !projection.depends_on_time).map(subject).collect();
        let state = self.state.clone();
        tokio::spawn(async move {
            for subject in subjects {
                match pair.compare(&subject).await {
                    Ok(comparison) => record(&state, &subject.name, comparison),
                    Err(error) => {
                        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                        state.report.errors.push(format!("{}: {error}", subject.name));
                    }
                }
            }
            state.lock().unwrap_or_else(PoisonError::into_inner).busy.insert(group, false);
        });
    }
}

fn record(state: &Mutex<State>, projection: &str, comparison: Comparison) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let tally = state.report.comparisons.entry(projection.to_owned()).or_default();
    tally.compared += 1;
    tally.different += u64::from(!comparison.is_equal());
    tally.rows = comparison.rows;
}

fn subject(projection: &LiveProjection) -> Subject {
    Subject {
        name: projection.name.clone(),
        schema: projection.schema.clone(),
        query: projection.query_at.clone(),
        time_zone: projection.time_zone.clone(),
        columns: projection.columns.iter().map(|column| (column.name.clone(), column.comparable)).collect(),
    }
}

impl BatchObserver for Verifier {
    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>> {
        self.before(batch).boxed()
    }

    fn after_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, ()> {
        self.after(batch).boxed()
    }
}
