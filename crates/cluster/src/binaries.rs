//! Finding PostgreSQL's server binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::ClusterError;

/// The majors that Lockstep supports.
const MAJORS: std::ops::RangeInclusive<u32> = 14..=18;

/// A directory with `initdb`, `postgres` and `pg_ctl`, and its major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub directory: PathBuf,
    /// 14 to 18.
    pub major: u32,
}

impl Binaries {
    /// Looks in `LOCKSTEP_PG_BIN`, then PATH, then the directories where distributions put them, newest first.
    ///
    /// # Errors
    /// Nothing found; the message names the places and what to install.
    pub fn find() -> Result<Self, ClusterError> {
        if let Some(directory) = std::env::var_os("LOCKSTEP_PG_BIN") {
            let directory = PathBuf::from(directory);
            return Self::at(&directory).ok_or_else(|| {
                ClusterError::NoBinaries(format!("LOCKSTEP_PG_BIN={} holds no PostgreSQL 14–18 server", directory.display()))
            });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = MAJORS.rev().flat_map(|major| {
            [
                format!("/usr/lib/postgresql/{major}/bin"),
                format!("/usr/pgsql-{major}/bin"),
                format!("/opt/homebrew/opt/postgresql@{major}/bin"),
                format!("/usr/local/opt/postgresql@{major}/bin"),
            ]
        });
        std::env::split_paths(&path).chain(usual.map(PathBuf::from)).find_map(|directory| Self::at(&directory)).ok_or_else(|| {
            ClusterError::NoBinaries(
                "no PostgreSQL 14–18 server found in LOCKSTEP_PG_BIN, PATH or the usual directories; \
                 install one (Debian, Ubuntu: apt-get install postgresql) or set LOCKSTEP_PG_BIN to its bin directory"
                    .to_owned(),
            )
        })
    }

    /// The binaries in a directory, if they are there and of a supported version.
    pub fn at(directory: &Path) -> Option<Self> {
        if !["initdb", "postgres", "pg_ctl"].iter().all(|name| directory.join(name).is_file()) {
            return None;
        }
        let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let major = text.split_whitespace().nth(2)?.split('.').next()?.parse().ok()?;
        MAJORS.contains(&major).then(|| Self { directory: directory.to_owned(), major })
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}
