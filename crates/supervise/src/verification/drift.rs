//! How many rows were found wrong although no change explains it: each once, however often it is looked at.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use lockstep_connect::Text;

/// Of one projection.
#[derive(Debug, Default)]
struct Known {
    /// Hashes of rows that differ: their part, their key, and what the table holds of them.
    rows: HashSet<u64>,
    /// Rows that differ beyond those that were named.
    others: u64,
}

/// What a look at a projection found.
#[derive(Debug, Default, Clone)]
pub(crate) struct Found {
    rows: HashSet<u64>,
    others: u64,
}

/// As the counter is the process's, so is what it has counted: verifications come and go with every set-up.
static KNOWN: LazyLock<Mutex<HashMap<String, Known>>> = LazyLock::new(Mutex::default);

/// Rows are told apart by hashes, so that values are not kept.
static HASHER: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);

/// Whether a look saw everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What it did not find is right again.
    All,
    /// A sample, or it failed in part.
    Part,
}

impl Found {
    /// A row that differs. Equal while the table holds the same of it: a row that was mended and is wrong anew counts anew.
    pub(crate) fn row(&mut self, part: &str, key: &[Option<Text>], held: Option<&[Option<Text>]>) {
        self.rows.insert(HASHER.hash_one((part, key, held)));
    }

    /// So many rows beyond those that are named.
    pub(crate) fn others(&mut self, rows: u64) {
        self.others += rows;
    }
}

impl Known {
    /// Takes in what a look found; returns how many rows are new.
    fn learn(&mut self, found: &Found, extent: Extent) -> u64 {
        let new = found.rows.difference(&self.rows).count() as u64 + found.others.saturating_sub(self.others);
        match extent {
            Extent::All => (self.rows, self.others) = (found.rows.clone(), found.others),
            Extent::Part => {
                self.rows.extend(&found.rows);
                self.others = self.others.max(found.others);
            }
        }
        new
    }

    fn rows(&self) -> u64 {
        self.rows.len() as u64 + self.others
    }
}

fn known() -> MutexGuard<'static, HashMap<String, Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A look at a projection has ended; if it was followed by a repair, nothing is wrong any more.
pub(crate) fn looked(projection: &str, found: &Found, extent: Extent, repaired: bool) {
    let new = {
        let mut all = known();
        let known = all.entry(projection.to_owned()).or_default();
        let new = known.learn(found, extent);
        if repaired {
            *known = Known::default();
        }
        new
    };
    metrics::counter!("lockstep_drift_rows_total", "projection" => projection.to_owned()).increment(new);
}

/// Rows of a projection were repaired without a look that names them.
pub(crate) fn repaired(projection: &str, rows: u64) {
    let counted = std::mem::take(known().entry(projection.to_owned()).or_default()).rows();
    let new = rows.saturating_sub(counted);
    metrics::counter!("lockstep_drift_rows_total", "projection" => projection.to_owned()).increment(new);
}

/// Tells how many rows are known to be wrong.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn tell() {
    for (projection, known) in known().iter() {
        metrics::gauge!("lockstep_differing_rows", "projection" => projection.clone()).set(known.rows() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, Found, Known};

    fn found(rows: &[(&str, &str)], others: u64) -> Found {
        let mut found = Found::default();
        for (key, held) in rows {
            found.row("rows", &[Some((*key).into())], Some(&[Some((*held).into())]));
        }
        found.others(others);
        found
    }

    #[test]
    fn a_wrong_row_counts_once_until_it_is_right_again() {
        let mut known = Known::default();
        let wrong = found(&[("1", "x")], 0);
        assert_eq!(known.learn(&wrong, Extent::All), 1);
        assert_eq!(known.learn(&wrong, Extent::All), 0);
        assert_eq!(known.learn(&found(&[], 0), Extent::Part), 0);
        assert_eq!(known.learn(&wrong, Extent::All), 0, "a sample without it does not make it right");
        assert_eq!(known.learn(&found(&[("1", "y"), ("2", "x")], 0), Extent::All), 2, "wrong in another way, and another one");
        assert_eq!(known.learn(&found(&[], 0), Extent::All), 0);
        assert_eq!(known.learn(&wrong, Extent::All), 1, "it was right in between");
        assert_eq!(known.learn(&found(&[("1", "x")], 500), Extent::All), 500);
        assert_eq!((known.learn(&found(&[("1", "x")], 510), Extent::All), known.rows()), (10, 511));
    }
}
