//! Totals that may be told again for a while, where that is configured.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::select::Statement;

/// Totals that are kept at most; then all are counted anew.
const TOTALS_MAX: usize = 10_000;

/// Totals that were counted lately, by the statement that counted them.
#[derive(Default)]
pub(crate) struct Totals(Mutex<HashMap<Statement, (Instant, i64)>>);

impl Totals {
    pub(crate) fn get(&self, statement: &Statement, max_age: Duration) -> Option<i64> {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.get(statement).filter(|(since, _)| since.elapsed() < max_age).map(|(_, total)| *total)
    }

    pub(crate) fn keep(&self, statement: Statement, total: i64) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if totals.len() >= TOTALS_MAX {
            totals.clear();
        }
        totals.insert(statement, (Instant::now(), total));
    }
}
