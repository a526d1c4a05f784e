//! Clusters for tests: initdb once a version, then copies of the directory.

use std::path::PathBuf;

use anyhow::Context as _;
use lockstep_cluster::{Binaries, Cluster, ClusterOptions};
use lockstep_connect::{Session, Settings};

/// A running cluster without durability.
///
/// # Errors
/// No binaries, or the server does not start.
pub fn cluster() -> anyhow::Result<Cluster> {
    cluster_with(&[])
}

/// The same with settings, `name=value`.
///
/// # Errors
/// As [`cluster`].
pub fn cluster_with(settings: &[&str]) -> anyhow::Result<Cluster> {
    cluster_with_files(settings, Vec::new())
}

/// The same with files in the data directory, name and content.
///
/// # Errors
/// As [`cluster`].
pub fn cluster_with_files(settings: &[&str], files: Vec<(String, String)>) -> anyhow::Result<Cluster> {
    let binaries = Binaries::find()?;
    let options = ClusterOptions {
        template: Some(template(&binaries)?),
        settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
        files,
        ..ClusterOptions::default()
    };
    Ok(Cluster::start(&binaries, &options)?)
}

/// An initialised data directory, shared by all tests of a machine. Made under another name and renamed, so that tests that start
/// together never see half of it.
fn template(binaries: &Binaries) -> anyhow::Result<PathBuf> {
    let home = std::env::temp_dir().join("lockstep-testkit");
    let version = std::process::Command::new(binaries.directory.join("postgres")).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    let number = version.split_whitespace().nth(2).unwrap_or("unknown");
    let ready = home.join(format!("template-{number}"));
    if ready.join("PG_VERSION").exists() {
        return Ok(ready);
    }
    let making = home.join(format!("making-{}", std::process::id()));
    std::fs::create_dir_all(&making).with_context(|| making.display().to_string())?;
    let data = making.join("data");
    Cluster::initialise_template(binaries, &data)?;
    if std::fs::rename(&data, &ready).is_err() && !ready.join("PG_VERSION").exists() {
        anyhow::bail!("cannot keep the template at {}", ready.display());
    }
    std::fs::remove_dir_all(&making)?;
    Ok(ready)
}

/// A session on a cluster's database.
///
/// # Errors
/// The server cannot be reached.
pub async fn connect(url: &str) -> anyhow::Result<Session> {
    let settings = Settings::resolve(Some(url), &|_| None)?;
    Ok(Session::open(&settings, "lockstep test").await?)
}
