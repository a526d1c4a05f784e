//! What it was measured on.

use std::time::Instant;

use serde::Serialize;

use crate::bench::{Bench, session};
use crate::statistics::median;

/// Commits of which the median is taken.
const COMMITS: usize = 200;

/// The machine and the server.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// Processes that ran or waited for a core, on average of the minute before.
    pub(crate) load_before: String,
    pub(crate) postgresql: String,
    pub(crate) program: String,
    /// Median of a commit of one row that is flushed.
    pub(crate) commit_ms: f64,
    /// Of one that is not.
    pub(crate) commit_without_flush_ms: f64,
}

impl Machine {
    pub(crate) async fn look(bench: &Bench) -> anyhow::Result<Self> {
        let cluster = bench.empty()?;
        let session = session(&cluster.url("postgres")).await?;
        session.batch_execute("CREATE TABLE one AS SELECT 1 AS n").await?;
        let mut commits = [0.0; 2];
        for (mode, commit) in ["local", "off"].iter().zip(&mut commits) {
            session.batch_execute(&format!("SET synchronous_commit = {mode}")).await?;
            let mut times = Vec::new();
            for _ in 0..COMMITS {
                let began = Instant::now();
                session.batch_execute("UPDATE one SET n = n + 1").await?;
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            *commit = median(&times);
        }
        let version = std::process::Command::new(&bench.program).arg("--version").output()?;
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory_gib(),
            kernel: text("/proc/sys/kernel/osrelease"),
            load_before: text("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            postgresql: session.query_one("SHOW server_version", &[]).await?.get(0),
            program: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            commit_ms: commits[0],
            commit_without_flush_ms: commits[1],
        })
    }
}

/// A file of the system; nothing where there is none.
fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = text(path);
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_gib() -> f64 {
    let kibibytes = field("/proc/meminfo", "MemTotal").and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.map_or(f64::NAN, |kibibytes| kibibytes / 1024.0 / 1024.0)
}
