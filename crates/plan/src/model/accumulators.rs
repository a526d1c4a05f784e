//! What is kept for each group instead of reading its contributions.

use super::state::StateTable;

/// What is kept for each group instead of reading its contributions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accumulators {
    /// One row a group: group columns, `n` rows, and for each input `c1`… its count, `s1`… its sum, and so on.
    pub groups: StateTable,
    /// What is counted and summed.
    pub inputs: Vec<Input>,
    /// One table for each counted value: group columns, `v`, and how often it occurs.
    pub values: Vec<Values>,
    /// The user's select list over the groups' rows.
    pub select_list: Vec<String>,
    /// HAVING over the groups' rows.
    pub having: Option<String>,
    /// Expressions over the contributions that an index must order within a group.
    pub ordered: Vec<String>,
}

/// Something that is counted, and perhaps summed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// An expression over a contribution.
    pub expression: String,
    /// How it is summed.
    pub sum: Option<Sum>,
}

/// How an input is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// An integer; the sum has the given type.
    Integer {
        /// Whether the sum is a bigint; otherwise it is numeric.
        to_bigint: bool,
    },
    /// A numeric with a declared scale.
    Scaled(i32),
    /// A numeric whose scale differs from row to row: the scales are counted in these [`Accumulators::values`].
    Unscaled(usize),
}

/// Values that are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// The table.
    pub state: StateTable,
    /// What is counted: an expression over a contribution; NULL does not count.
    pub expression: String,
}

impl Input {
    /// The columns of input `index`, counted from 0, with their types.
    pub(crate) fn columns(&self, index: usize) -> Vec<(String, String)> {
        let n = index + 1;
        let count = |letter: &str| (format!("{letter}{n}"), "bigint NOT NULL".to_owned());
        let mut columns = vec![count("c")];
        match self.sum {
            None => {}
            Some(Sum::Integer { .. }) => columns.push((format!("s{n}"), "numeric NOT NULL".to_owned())),
            Some(Sum::Scaled(_) | Sum::Unscaled(_)) => {
                columns.push((format!("s{n}"), "numeric NOT NULL".to_owned()));
                columns.extend(["x", "p", "m"].map(count));
            }
        }
        columns
    }
}
