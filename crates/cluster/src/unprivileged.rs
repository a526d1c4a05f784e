//! Running a program as somebody other than root.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Gid, Uid, User};

/// Users tried, in order, when the caller is root.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// The user that the server runs as: `None` means the caller itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunAs(Option<(Uid, Gid)>);

impl RunAs {
    pub(crate) fn choose() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Self(None));
        }
        CANDIDATES
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Self(Some((user.uid, user.gid))))
            .ok_or_else(|| format!("PostgreSQL refuses to run as root, and none of the users {} exists", CANDIDATES.join(", ")))
    }

    /// A command that runs as this user. Starting as root, the standard library drops supplementary groups as well.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.0 {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        // The caller's locale and PG… variables must not leak into the cluster.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("PG") || name_text.starts_with("LC_") || name_text == "LANG" {
                command.env_remove(&name);
            }
        }
        command.current_dir("/");
        command
    }

    pub(crate) fn own(&self, path: &Path) -> Result<(), String> {
        match self.0 {
            None => Ok(()),
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
                .map_err(|error| format!("chown {}: {error}", path.display())),
        }
    }

    /// Gives a whole tree to this user.
    pub(crate) fn own_tree(&self, path: &Path) -> Result<(), String> {
        self.own(path)?;
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
            for entry in entries {
                let entry = entry.map_err(|error| error.to_string())?;
                if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                    self.own_tree(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}
