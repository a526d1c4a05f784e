//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// What people do with it, in the order in which they do it.
const EXAMPLES: &str = "Examples:
  lockstep demo                                             see it on a private cluster
  lockstep init --url postgres://app@db.example/shop        begin with the materialized views that are there
  lockstep check                                            what is missing, and what to do about it
  lockstep plan product_search --sql                        how a projection is maintained
  lockstep run                                              build, then follow (SIGHUP reads the configuration again)
  lockstep status --json                                    where everything is
  lockstep wait --timeout 5s && lockstep verify             catch up, and compare every row

Exit status: 0 good, 1 failure, 2 wrong usage or configuration, 3 timed out.";

/// Keeps read-model tables equal to SQL SELECTs, within milliseconds of each commit.
#[derive(Debug, Parser)]
#[command(
    name = "lockstep",
    version,
    about,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// The configuration file.
    #[arg(short, long, global = true, default_value = "lockstep.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log, for example info, debug or `lockstep_refresh=debug`.
    #[arg(long, global = true, env = "LOCKSTEP_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Log as JSON lines.
    #[arg(long, global = true, env = "LOCKSTEP_LOG_JSON")]
    pub log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented configuration from an existing database: each materialized view becomes a projection.
    Init {
        /// The database; libpq's variables (PGHOST, PGUSER …) if left out.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Look at servers, privileges, tables and queries; change nothing.
    Check {
        /// Print the statements that the findings ask for, each once, by the role that may run them.
        #[arg(long)]
        sql: bool,
        /// How long it may take.
        #[command(flatten)]
        looking: Looking,
    },
    /// Show how each projection is maintained.
    Plan {
        /// Only this projection.
        name: Option<String>,
        /// Show the statements too.
        #[arg(long)]
        sql: bool,
        /// How long it may take.
        #[command(flatten)]
        looking: Looking,
    },
    /// Build what is missing, then keep everything current until SIGTERM or SIGINT.
    Run {
        /// Catch up with the source's position at the start, and exit.
        #[arg(long)]
        once: bool,
        /// Drop the tables of projections that are no longer configured.
        #[arg(long)]
        prune: bool,
    },
    /// Serve the read API alone, beside a projector that runs elsewhere.
    Serve {
        /// Where to listen, instead of [api] listen.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<std::net::SocketAddr>,
    },
    /// Build a projection anew beside the old one, which is maintained meanwhile, and swap it in.
    Rebuild {
        /// The projection.
        name: String,
        /// How long to wait for the swap.
        #[arg(long, value_parser = parse_duration, default_value = "1h", value_name = "TIME")]
        timeout: Duration,
        /// Give up, with exit status 3, when nothing has moved for so long.
        #[arg(long, value_parser = parse_duration, default_value = "2m", value_name = "TIME")]
        patience: Duration,
    },
    /// Show where every group and projection is.
    Status {
        /// How long it may take.
        #[command(flatten)]
        looking: Looking,
    },
    /// Wait until every group contains a source position.
    Wait {
        /// The position; the source's current one if left out.
        #[arg(long, value_name = "X/Y")]
        lsn: Option<lockstep_wal::Lsn>,
        /// How long to wait, for example 30s, 500ms or 2m.
        #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
        timeout: Duration,
    },
    /// Compare every row with the defining query at an equal snapshot, while the projector runs or stands still.
    Verify {
        /// Only these projections.
        names: Vec<String>,
        /// Only a part of the rows, for example 1%.
        #[arg(long, value_parser = parse_share, value_name = "SHARE")]
        sample: Option<u32>,
        /// Show the values of rows that differ.
        #[arg(long)]
        show_values: bool,
        /// Give up, with exit status 3, when nothing has moved for so long.
        #[arg(long, value_parser = parse_duration, default_value = "2m", value_name = "TIME")]
        patience: Duration,
    },
    /// Verify, and refresh what differs.
    Repair {
        /// Only these projections.
        names: Vec<String>,
        /// Give the replication slot up for a new one, and compare and repair everything behind it.
        #[arg(long, conflicts_with_all = ["names", "show_values"])]
        new_slot: bool,
        /// Show the values of rows that differed.
        #[arg(long)]
        show_values: bool,
        /// Give up, with exit status 3, when nothing has moved for so long.
        #[arg(long, value_parser = parse_duration, default_value = "2m", value_name = "TIME")]
        patience: Duration,
    },
    /// Show the keys that fail and are set aside, or try them again.
    Quarantine {
        /// What to do; list if left out.
        #[command(subcommand)]
        action: Option<QuarantineAction>,
        /// How long it may take.
        #[command(flatten)]
        looking: Looking,
    },
    /// Make a copy of the target, whose original is gone, the installation; accept a source that is behind what was followed.
    Adopt {
        /// How long it may take.
        #[command(flatten)]
        looking: Looking,
    },
    /// Drop slot, publication, state and read models.
    Teardown {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Leave the read models' tables.
        #[arg(long)]
        keep_tables: bool,
    },
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Show it all on a private cluster with a live workload.
    Demo(DemoArguments),
}

/// Of commands that wait for nothing but answers.
#[derive(Debug, Clone, Copy, Args)]
pub struct Looking {
    /// Give up, with exit status 3, when the databases have not answered within so long.
    #[arg(long, value_parser = parse_duration, default_value = "1m", value_name = "TIME")]
    pub patience: Duration,
}

/// What to do with the quarantine.
#[derive(Debug, Clone, Subcommand)]
pub enum QuarantineAction {
    /// Show the keys and why they fail.
    List {
        /// Only this projection's.
        name: Option<String>,
    },
    /// Try them again now; exit 0 only if none is left.
    Retry {
        /// Only this projection's.
        name: Option<String>,
        /// How long to wait for the outcome.
        #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
        timeout: Duration,
    },
}

/// The demonstration's arguments.
#[derive(Debug, Clone, Args)]
pub struct DemoArguments {
    /// Products in the sample data; there are as many orders.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub products: u32,
    /// End after this many seconds with a summary; without it, run until Ctrl-C.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Single-row commits a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub rate: u32,
    /// Tell what changes, too: the feed, whose batches are flushed before they are told.
    #[arg(long)]
    pub feed: bool,
    /// Make the cluster here and keep it; a temporary directory otherwise.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// `500ms`, `30s`, `2m`, `1h`; a bare number means seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("\"{text}\" is not a time; for example 30s, 500ms or 2m"))?;
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit \"{other}\"; use ms, s, m or h")),
    };
    let seconds = number * unit;
    if !(0.0..=86_400.0 * 365.0).contains(&seconds) {
        return Err(format!("\"{text}\" is out of range"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// `1%` or `0.5%`: rows of ten thousand.
fn parse_share(text: &str) -> Result<u32, String> {
    let wrong = || format!("\"{text}\" is not a share from 0.01% to 100%; for example 1%");
    let percent: f64 = text.strip_suffix('%').ok_or_else(wrong)?.trim().parse().map_err(|_| wrong())?;
    let share = (percent * 100.0).round();
    if !(1.0..=10_000.0).contains(&share) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(share as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for bad in ["", "x", "5 parsecs", "-1s", "nan"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(parse_share("1%"), Ok(100));
        assert_eq!(parse_share("0.5%"), Ok(50));
        for bad in ["1", "0%", "101%", "x%", "-1%", "nan%"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
