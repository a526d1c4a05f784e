//! A construct and how it has to be maintained.

/// How a construct has to be maintained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// A change costs what the rows that it affects cost.
    Incremental,
    /// As that, but for one relation whose changes recompute everything.
    Partly,
    /// Recomputed in full, over the tables of inner projections that are incremental.
    Inner,
    /// Recomputed in full.
    Whole,
}

/// Name, how, query, additional TOML.
pub(super) type Construct = (&'static str, How, &'static str, &'static str);
