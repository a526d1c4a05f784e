//! How contributions are named.

/// The column that tells which arm of a set operation a contribution is of, from 1.
pub(crate) const ARM: &str = "arm";

/// The alias of the contributions in the group query.
pub(crate) const CONTRIBUTION_ALIAS: &str = "c";

/// The column of group expression `index`, counted from 0.
pub(crate) fn group_column(index: usize) -> String {
    format!("g{}", index + 1)
}

/// The column of aggregate argument `index`, counted from 0.
pub(crate) fn argument_column(index: usize) -> String {
    format!("a{}", index + 1)
}

/// The alias of a partition's rows where a limit is put on them.
pub(crate) const KEPT: &str = "kept";

/// The column of output `index`, counted from 0, of [`KEPT`].
pub(crate) fn kept_column(index: usize) -> String {
    format!("r{}", index + 1)
}
