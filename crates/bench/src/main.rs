//! Measures the release program against what PostgreSQL itself offers.
//!
//! ```text
//!   scenario ──► private clusters ──► lockstep run (a child) │ the anchor, in turn
//!            ──► figures ──► table compared with its query ──► benchmarks.md, benchmarks.json, pictures
//! ```

mod arguments;
mod bench;
mod equality;
mod http;
mod latency;
mod machine;
mod projections;
mod projector;
mod report;
mod scenarios;
mod statistics;
mod subscription;
mod waiting;
mod writers;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use bench::Bench;
use machine::Machine;
use report::Report;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // From the beginning, so that no signal leaves clusters behind: they end when what holds them is dropped.
    let outcome = tokio::select! {
        outcome = measure(&arguments) => outcome,
        () = interrupted() => Err(anyhow::anyhow!("interrupted; the clusters are removed")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let bench = Bench::new(arguments)?;
    if cfg!(debug_assertions) && arguments.program.is_none() {
        eprintln!("note: this is a development build, and so is the program beside it; --program chooses another");
    }
    let mut report = Report {
        command: command(),
        full: arguments.full,
        rounds: bench.rounds(),
        machine: Machine::look(&bench).await?,
        sections: Vec::new(),
    };
    let wanted = |name: &&str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let names: Vec<&str> = scenarios::names().into_iter().filter(wanted).collect();
    anyhow::ensure!(!names.is_empty(), "there are {}", scenarios::names().join(", "));
    for name in names {
        report.sections.push(scenarios::run(&bench, name).await?);
        // Each time: a full run is long, and what comes later may fail.
        report.write(&arguments.out)?;
    }
    eprintln!("{} written", arguments.out.join("benchmarks.md").display());
    Ok(())
}

/// As it was called, without where the program lies.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    ["lockstep-bench".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}
