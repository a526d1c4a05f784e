//! The program that is measured, as a child process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lockstep_connect::Session;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::bench::{Bench, session};
use crate::waiting::{PATIENCE, position};

/// How often it is looked whether everything is built.
const PAUSE: Duration = Duration::from_millis(5);

/// What a projector is to do.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) source: String,
    /// The target's URL, where it is another database.
    pub(crate) target: Option<String>,
    /// TOML: the projections, and whatever else the scenario needs.
    pub(crate) configuration: String,
    /// How many projections that makes.
    pub(crate) projections: usize,
}

impl Setup {
    pub(crate) fn target_url(&self) -> &str {
        self.target.as_deref().unwrap_or(&self.source)
    }

    fn toml(&self) -> String {
        let target = self.target.as_ref().map(|url| format!("[target]\nurl = \"{url}\"\n")).unwrap_or_default();
        format!("[source]\nurl = \"{}\"\n{target}{}", self.source, self.configuration)
    }
}

/// `lockstep run`. Dropping it kills it.
pub(crate) struct Projector {
    child: Child,
    program: PathBuf,
    files: tempfile::TempDir,
    pub(crate) source: Session,
    pub(crate) target: Session,
    projections: usize,
}

impl Projector {
    /// Starts it; nothing is waited for. Sessions are opened before, so that their opening is not in what is measured.
    pub(crate) async fn spawn(bench: &Bench, setup: &Setup) -> anyhow::Result<Self> {
        let files = tempfile::tempdir()?;
        let path = files.path().join("lockstep.toml");
        std::fs::write(&path, setup.toml())?;
        let log = std::fs::File::create(files.path().join("log"))?;
        let (source, target) = (session(&setup.source).await?, session(setup.target_url()).await?);
        let mut command = Command::new(&bench.program);
        command.arg("--config").arg(&path).args(["--log", "info", "run", "--prune"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| bench.program.display().to_string())?;
        Ok(Self { child, program: bench.program.clone(), files, source, target, projections: setup.projections })
    }

    /// Starts it, and waits until everything is built and contained.
    pub(crate) async fn start(bench: &Bench, setup: &Setup) -> anyhow::Result<Self> {
        let mut projector = Self::spawn(bench, setup).await?;
        projector.until_live().await?;
        projector.until_contained().await?;
        Ok(projector)
    }

    /// Waits until all projections are live.
    pub(crate) async fn until_live(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.is_live().await? {
            self.check(began)?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn is_live(&self) -> anyhow::Result<bool> {
        let made = self.target.query_one("SELECT to_regclass('lockstep.projection') IS NOT NULL", &[]).await?;
        if !made.get::<_, bool>(0) {
            return Ok(false);
        }
        let states = "SELECT count(*) FILTER (WHERE state = 'live' AND part_of IS NULL), string_agg(name || ': ' || reason, '; ')
                      FROM lockstep.projection";
        let row = self.target.query_one(states, &[]).await?;
        if let Some(reason) = row.get::<_, Option<String>>(1) {
            bail!("{reason}");
        }
        Ok(usize::try_from(row.get::<_, i64>(0))? == self.projections)
    }

    /// Waits until everything contains the source's present position.
    pub(crate) async fn until_contained(&mut self) -> anyhow::Result<()> {
        let wanted = position(&self.source).await?;
        let began = Instant::now();
        // In short turns, so that a program that has ended is noticed.
        let statement = self.target.prepare("SELECT lockstep.wait_for($1::text::pg_lsn, '1 second')").await?;
        while !self.target.query_one(&statement, &[&wanted]).await?.get::<_, bool>(0) {
            self.check(began)?;
        }
        Ok(())
    }

    fn check(&mut self, began: Instant) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the program ended: {status}\n{}", self.log());
        }
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}\n{}", self.log());
        }
        Ok(())
    }

    /// What the log ends with.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.files.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Runs one of the program's other commands with the same configuration; it must succeed.
    pub(crate) async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let path = self.files.path().join("lockstep.toml");
        let output = Command::new(&self.program).arg("--config").arg(path).args(arguments).stdin(Stdio::null()).output().await?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            bail!("lockstep {}: {}\n{text}", arguments.join(" "), output.status);
        }
        Ok(text)
    }

    /// The most memory that was ever resident, in mebibytes; none where the system does not tell.
    pub(crate) fn memory_peak(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes / 1024.0)
    }

    /// Ends it, and removes all that it has made.
    pub(crate) async fn stop_and_tear_down(mut self) -> anyhow::Result<()> {
        self.end().await?;
        self.command(&["teardown", "--yes"]).await?;
        Ok(())
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.end().await
    }

    /// As a service manager does.
    async fn end(&mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM)?;
        }
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the program ended: {status}\n{}", self.log());
        }
        Ok(())
    }
}
