//! The oracle, called for every batch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lockstep_backstop::{Subject, compare, compare_in_one_session};
use lockstep_connect::{ErrorClass, classify, describe};
use lockstep_refresh::{BatchObserver, BatchView, LiveProjection};

/// Compares every live projection after every batch.
#[derive(Default)]
pub struct Oracle {
    tallies: Mutex<BTreeMap<String, Tally>>,
    /// Refuse a batch that differs; otherwise only count it (for negative controls).
    refuse: bool,
}

/// How often a projection was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Comparisons made.
    pub compared: u64,
    /// Comparisons that found a difference.
    pub different: u64,
}

impl Oracle {
    /// An oracle that refuses a batch that differs, which ends the run with an error.
    pub fn strict() -> Self {
        Self { refuse: true, ..Self::default() }
    }

    /// An oracle that counts.
    pub fn counting() -> Self {
        Self::default()
    }

    /// All comparisons so far.
    pub fn total(&self) -> Tally {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.values().fold(Tally::default(), |sum, tally| Tally {
            compared: sum.compared + tally.compared,
            different: sum.different + tally.different,
        })
    }

    /// Comparisons of one projection.
    pub fn of(&self, projection: &str) -> Tally {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).get(projection).cloned().unwrap_or_default()
    }

    async fn examine(&self, batch: BatchView<'_>) -> Result<(), String> {
        for projection in batch.live.iter().filter(|projection| !projection.depends_on_time) {
            let subject = subject(projection);
            let result = if batch.one_database || projection.on_target {
                compare_in_one_session(batch.target, &subject).await
            } else {
                compare(batch.source, batch.target, &subject).await
            };
            let comparison = match result {
                Ok(comparison) => comparison,
                // The connection went away under the comparison; the batch's own commit will find out and be repeated.
                Err(error) if classify(&error) == ErrorClass::Transient => return Ok(()),
                Err(error) => return Err(describe(&error)),
            };
            let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
            let tally = tallies.entry(projection.name.clone()).or_default();
            tally.compared += 1;
            if !comparison.is_equal() {
                tally.different += 1;
                if self.refuse {
                    return Err(format!("{} differs from its query: {comparison:?}", projection.name));
                }
            }
        }
        Ok(())
    }
}

fn subject(projection: &LiveProjection) -> Subject {
    Subject {
        name: projection.name.clone(),
        schema: projection.schema.clone(),
        query: projection.query.clone(),
        time_zone: projection.time_zone.clone(),
        columns: projection.columns.iter().map(|column| (column.name.clone(), column.comparable)).collect(),
    }
}

impl BatchObserver for Oracle {
    fn before_commit<'a>(&'a self, batch: BatchView<'a>) -> BoxFuture<'a, Result<(), String>> {
        self.examine(batch).boxed()
    }

    fn after_commit<'a>(&'a self, _batch: BatchView<'a>) -> BoxFuture<'a, ()> {
        futures_util::future::ready(()).boxed()
    }
}
