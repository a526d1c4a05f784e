//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures the release program against what PostgreSQL itself offers, on private clusters.
#[derive(Debug, Parser)]
#[command(name = "lockstep-bench", version)]
pub(crate) struct Arguments {
    /// The program that is measured; the `lockstep` beside this one if left out.
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
    /// Larger tables, longer windows, more rounds.
    #[arg(long)]
    pub(crate) full: bool,
    /// Only scenarios of these names.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Rows and seconds, as a multiple of the usual; for developing a scenario.
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    pub(crate) scale: f64,
    /// How often each side is measured, in turn; 3, or with --full 5, if left out.
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// Where benchmarks.md, benchmarks.json and the folder of pictures are written.
    #[arg(long, default_value = "docs", value_name = "DIR")]
    pub(crate) out: PathBuf,
}
