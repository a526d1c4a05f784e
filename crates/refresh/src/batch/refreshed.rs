//! What a refresh did.

use lockstep_connect::Text;
use tokio_postgres::Row;

use super::trace::Columns;
use super::write::Counts;
use crate::quarantine::{Failure, Key};

/// Groups to recompute.
pub(super) enum Groups {
    /// These, one array of texts for each group column; after them, where rows are found by the root's key, the roots' keys.
    Some(Columns),
    All,
}

/// What refreshing some keys did.
#[derive(Default)]
pub(super) struct Refreshed {
    pub(super) counts: Counts,
    /// The groups whose contributions changed.
    pub(super) groups: Vec<Row>,
    /// Keys that an index of the read model refuses.
    pub(super) refused: Vec<Refusal>,
}

impl Refreshed {
    pub(super) fn counted(counts: Counts) -> Self {
        Self { counts, ..Self::default() }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.counts = self.counts.plus(other.counts);
        self.groups.extend(other.groups);
    }
}

/// Keys as one array for each of `columns` columns.
pub(super) fn columns_of(keys: impl IntoIterator<Item = Key>, columns: usize) -> Columns {
    let mut arrays: Columns = vec![Vec::new(); columns];
    for key in keys {
        for (array, value) in arrays.iter_mut().zip(key) {
            array.push(value);
        }
    }
    arrays
}

pub(super) fn keys_of(columns: &[Vec<Option<Text>>]) -> Vec<Key> {
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

pub(super) fn key_of_row(row: &Row) -> Key {
    (0..row.len()).map(|column| row.get(column)).collect()
}

/// A key that is set aside, and why.
pub(super) struct Refusal {
    pub(super) key: Key,
    pub(super) failure: Failure,
}
