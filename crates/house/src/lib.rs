//! Reads Lockstep's own source: which file imports which. The rules are in `tests/house.rs`.
//!
//! ```text
//!   files ──syn──► paths (use, and crate:: or super:: in code) ──re-exports followed──► file → files ──► circles
//! ```
//!
//! What stands under `#[cfg(test)]` is left out: a file's own tests may look wherever they want.

mod circles;
mod imports;
mod paths;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub use circles::circles;
pub use imports::Imports;

/// The repository's directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files below a directory of the repository with one of these extensions, named from the repository's directory, in order.
///
/// # Errors
/// The directory cannot be read.
pub fn files(directory: &str, extensions: &[&str]) -> anyhow::Result<Vec<String>> {
    let root = root();
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(root.join(directory)).sort_by_file_name() {
        let entry = entry.with_context(|| format!("below {directory}"))?;
        let path = entry.path().strip_prefix(&root)?.to_string_lossy().into_owned();
        let fits = Path::new(&path).extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted));
        if entry.file_type().is_file() && fits && !path.contains("/target/") {
            found.push(path);
        }
    }
    Ok(found)
}

/// A file's text.
///
/// # Errors
/// It cannot be read.
pub fn text(file: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(root().join(file)).with_context(|| file.to_owned())
}

/// The names of the crates.
///
/// # Errors
/// Their directory cannot be read.
pub fn crates() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("crates"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What a crate depends on, tests apart, as its manifest names it.
///
/// # Errors
/// The manifest cannot be read.
pub fn dependencies(name: &str) -> anyhow::Result<Vec<String>> {
    let manifest: toml::Table = text(&format!("crates/{name}/Cargo.toml"))?.parse()?;
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    Ok(table.into_iter().flat_map(|table| table.keys().cloned()).collect())
}
