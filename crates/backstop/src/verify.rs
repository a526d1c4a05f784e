//! Verification: every row of a table against every row of its definition, with what differs.
//!
//! First both sides tell sums of their rows' hashes (`digest.rs`), which mostly is all. Where those differ, or mean nothing, both sides are read in
//! the order of their keys' bytes and merged, so memory is bounded by a page and by the rows of one key.
//! Rows are compared as texts, which tell apart whatever stored images tell apart: both sides have the same column types, and sessions
//! with the same settings.

use std::cmp::Ordering;

use lockstep_connect::Text;
use tokio_postgres::Client;

use crate::digest::{digest, have_one_encoding};
use crate::rows::{Reading, Row, Sample, SortedRows};

/// What is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Quoted name of the table.
    pub table: String,
    /// The query that it must equal.
    pub definition: String,
    /// Whether the definition is computed on the target, because it reads tables there.
    pub on_target: bool,
    /// All columns.
    pub columns: Vec<String>,
    /// The columns that identify a row; all of them, if nothing does.
    pub key: Vec<String>,
    /// Keys that are left out, because they are known to be wrong: columns, and their values.
    pub without: (Vec<String>, Vec<Vec<Option<Text>>>),
    /// The time zone that the definition is computed in.
    pub time_zone: String,
}

/// How rows differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The definition has a row that the table lacks.
    Missing,
    /// The table has a row that the definition has not.
    Unexpected,
    /// Both have one, with other values.
    Changed,
}

impl DifferenceKind {
    /// Its name in tables and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Changed => "changed",
        }
    }
}

/// One row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// How.
    pub kind: DifferenceKind,
    /// As the definition has it.
    pub expected: Option<Vec<Option<Text>>>,
    /// As the table has it.
    pub actual: Option<Vec<Option<Text>>>,
}

impl Difference {
    /// The row, whichever side has it.
    pub fn rows(&self) -> impl Iterator<Item = &Vec<Option<Text>>> {
        self.expected.iter().chain(&self.actual)
    }

    /// The positions of the columns whose values differ.
    pub fn columns(&self) -> Vec<usize> {
        match (&self.expected, &self.actual) {
            (Some(expected), Some(actual)) => (0..expected.len()).filter(|&n| expected[n] != actual[n]).collect(),
            (Some(row), None) | (None, Some(row)) => (0..row.len()).collect(),
            (None, None) => Vec::new(),
        }
    }
}

/// The outcome.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Rows that the definition returned.
    pub rows: u64,
    /// Rows that differ.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// Verifies a claim. Both sessions must be inside transactions whose snapshots belong together. At most `differences_max` differences are
/// returned; all are counted. `progress` is told how many rows have been read.
///
/// # Errors
/// A query fails.
pub async fn verify(
    source: &Client,
    target: &Client,
    claim: &Claim,
    sample: Option<&Sample>,
    differences_max: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Verdict, tokio_postgres::Error> {
    let zone = format!("SET LOCAL TimeZone = '{}'", claim.time_zone.replace('\'', "''"));
    source.batch_execute(&zone).await?;
    target.batch_execute(&zone).await?;
    let positions = |names: &[String]| -> Vec<usize> {
        names.iter().filter_map(|name| claim.columns.iter().position(|column| column == name)).collect()
    };
    let key = positions(&claim.key);
    let without = (positions(&claim.without.0), claim.without.1.clone());
    let definition = format!("(\n{}\n)", claim.definition.trim().trim_end_matches(';'));
    let reading = |from, computes| Reading { from, columns: &claim.columns, key: &key, computes, without: &without, sample };
    let definition_side = if claim.on_target { target } else { source };
    if let Some(rows) = equal_rows(definition_side, target, &reading(&definition, true), &reading(&claim.table, false)).await? {
        progress(rows);
        return Ok(Verdict { rows, ..Verdict::default() });
    }
    let mut expected = SortedRows::open(definition_side, "lockstep_expected", &reading(&definition, true)).await?;
    let mut actual = SortedRows::open(target, "lockstep_actual", &reading(&claim.table, false)).await?;
    let mut verdict = Verdict::default();
    loop {
        let order = match (expected.key(), actual.key()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => compare_keys(&a, &b),
        };
        let wanted = if order == Ordering::Greater { Vec::new() } else { expected.take_group().await? };
        let found = if order == Ordering::Less { Vec::new() } else { actual.take_group().await? };
        let before = verdict.rows / 10_000;
        verdict.rows += wanted.len() as u64;
        if verdict.rows / 10_000 > before {
            progress(verdict.rows);
        }
        for difference in differences(wanted, found) {
            verdict.differing += 1;
            if verdict.differences.len() < differences_max {
                verdict.differences.push(difference);
            }
        }
    }
    expected.close().await?;
    actual.close().await?;
    progress(verdict.rows);
    Ok(verdict)
}

/// How many rows both sides have, if they have the same and that can be told without looking at each.
async fn equal_rows(
    definition_side: &Client,
    target: &Client,
    definition: &Reading<'_>,
    table: &Reading<'_>,
) -> Result<Option<u64>, tokio_postgres::Error> {
    // Keys that are left out of a table are not left out by its statement.
    if !table.without.1.is_empty() || !have_one_encoding(definition_side, target).await? {
        return Ok(None);
    }
    let (wanted, found) = tokio::try_join!(digest(definition_side, definition), digest(target, table))?;
    Ok((wanted == found).then(|| u64::try_from(wanted.rows).unwrap_or_default()))
}

/// NULLs last, as in the ORDER BY.
fn compare_keys(a: &[Option<&[u8]>], b: &[Option<&[u8]>]) -> Ordering {
    let one = |a: Option<&[u8]>, b: Option<&[u8]>| match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    a.iter().zip(b).map(|(a, b)| one(*a, *b)).find(|order| *order != Ordering::Equal).unwrap_or(Ordering::Equal)
}

/// What differs among the rows of one key, as multisets.
fn differences(mut expected: Vec<Row>, mut actual: Vec<Row>) -> Vec<Difference> {
    expected.retain(|row| match actual.iter().position(|other| other == row) {
        Some(position) => {
            actual.swap_remove(position);
            false
        }
        None => true,
    });
    let (mut expected, mut actual) = (expected.into_iter(), actual.into_iter());
    std::iter::from_fn(|| {
        let (expected, actual) = (expected.next(), actual.next());
        let kind = match (&expected, &actual) {
            (None, None) => return None,
            (Some(_), None) => DifferenceKind::Missing,
            (None, Some(_)) => DifferenceKind::Unexpected,
            (Some(_), Some(_)) => DifferenceKind::Changed,
        };
        Some(Difference { kind, expected, actual })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{DifferenceKind, Row, compare_keys, differences};

    fn row(texts: &[&str]) -> Row {
        texts.iter().map(|text| (*text != "NULL").then(|| (*text).into())).collect()
    }

    #[test]
    fn rows_of_a_key_are_compared_as_multisets() {
        let one = || row(&["1", "a"]);
        assert!(differences(vec![one(), one()], vec![one(), one()]).is_empty());
        let kinds = |expected, actual| differences(expected, actual).iter().map(|found| found.kind).collect::<Vec<_>>();
        assert_eq!(kinds(vec![one(), one()], vec![one()]), [DifferenceKind::Missing]);
        assert_eq!(kinds(vec![one()], vec![one(), row(&["1", "b"])]), [DifferenceKind::Unexpected]);
        let changed = differences(vec![one(), row(&["1", "NULL"])], vec![row(&["1", "b"]), one()]);
        assert_eq!((changed.len(), changed[0].kind, changed[0].columns()), (1, DifferenceKind::Changed, vec![1]));
    }

    #[test]
    fn keys_are_ordered_by_bytes_with_nulls_last() {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let compare = |a: Option<&str>, b: Option<&str>| compare_keys(&[a.map(str::as_bytes)], &[b.map(str::as_bytes)]);
        assert_eq!(compare(Some("a"), Some("b")), Less);
        assert_eq!(compare(Some("é"), Some("z")), Greater);
        assert_eq!(compare(Some("10"), Some("9")), Less);
        assert_eq!(compare(None, Some("z")), Greater);
        assert_eq!(compare(None, None), Equal);
    }
}
