//! What versions of a projection are called.

/// What the new version is called while it is built.
pub(super) const SUFFIX: &str = "__2";

/// What the old one is called while it is kept.
pub(super) const OLD_SUFFIX: &str = "__old";

/// The prefix of a new version's indexes until it takes its place.
pub(super) const INDEX_PREFIX: &str = "new_";

/// A name that begins with a projection's, as it is for another one.
pub(super) fn renamed(name: &str, from: &str, to: &str) -> String {
    name.strip_prefix(from).map_or_else(|| name.to_owned(), |rest| format!("{to}{rest}"))
}
