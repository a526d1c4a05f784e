//! The `lockstep` program.

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use lockstep::cli::{Cli, Command, QuarantineAction};
use lockstep::commands::within;
use lockstep::{Exit, commands, demo, logging, run as running};
use lockstep_config::Config;

/// What is added to the time that a command waits, for the answers to its last questions.
const ANSWERING_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();
    // Who reads our output may stop reading, as head does: that is no reason to complain.
    let complain = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.to_string().contains("failed printing to std") {
            std::process::exit(Exit::Failure as i32);
        }
        complain(panic);
    }));
    // clap itself exits with 2 on wrong usage.
    let cli = Cli::parse();
    if let Err(message) = logging::start_logging(&cli.log, cli.log_json) {
        eprintln!("error: {message}");
        return ExitCode::from(Exit::Usage as u8);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(Exit::Failure as u8);
        }
    };
    let exit = runtime.block_on(run(cli));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(exit as u8)
}

async fn run(cli: Cli) -> Exit {
    if let Command::Demo(arguments) = &cli.command {
        return finish(demo::run(arguments, cli.json).await);
    }
    if let Command::Init { url } = &cli.command {
        return finish(commands::init(&cli.config, url.as_deref()).await);
    }
    if let Command::Completions { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "lockstep", &mut script);
        return finish(std::io::Write::write_all(&mut std::io::stdout(), &script).map(|()| Exit::Good).map_err(Into::into));
    }
    let config = match Config::load(&cli.config) {
        Ok(config) => config,
        Err(diagnostic) => {
            eprintln!("{}", diagnostic.render(logging::colours()));
            return Exit::Usage;
        }
    };
    finish(match cli.command {
        Command::Check { sql, looking } => within(&config, looking.patience, commands::check(&config, sql, cli.json)).await,
        Command::Plan { name, sql, looking } => {
            within(&config, looking.patience, commands::plan(&config, name.as_deref(), sql, cli.json)).await
        }
        Command::Run { once, prune } => running::run(&Config { prune, ..config }, once).await,
        Command::Serve { listen } => commands::serve(&config, listen).await,
        Command::Rebuild { name, timeout, patience } => commands::rebuild(&config, &name, timeout, patience, cli.json).await,
        Command::Status { looking } => within(&config, looking.patience, commands::status(&config, cli.json)).await,
        Command::Wait { lsn, timeout } => {
            within(&config, timeout + ANSWERING_MAX, commands::wait(&config, lsn, timeout, cli.json)).await
        }
        Command::Verify { names, sample, show_values, patience } => {
            commands::verify(&config, names, sample, show_values, patience, cli.json).await
        }
        Command::Repair { new_slot: true, patience, .. } => commands::new_slot(&config, patience, cli.json).await,
        Command::Repair { names, show_values, patience, new_slot: false } => {
            commands::repair(&config, names, show_values, patience, cli.json).await
        }
        Command::Quarantine { action, looking } => match action.unwrap_or(QuarantineAction::List { name: None }) {
            QuarantineAction::List { name } => {
                within(&config, looking.patience, commands::quarantine_list(&config, name.as_deref(), cli.json)).await
            }
            QuarantineAction::Retry { name, timeout } => {
                let retry = commands::quarantine_retry(&config, name.as_deref(), timeout, cli.json);
                within(&config, timeout + ANSWERING_MAX, retry).await
            }
        },
        Command::Adopt { looking } => within(&config, looking.patience, commands::adopt(&config, cli.json)).await,
        Command::Teardown { yes, keep_tables } => commands::teardown(&config, yes, keep_tables, cli.json).await,
        Command::Demo(_) | Command::Init { .. } | Command::Completions { .. } => Ok(Exit::Good),
    })
}

fn finish(result: anyhow::Result<Exit>) -> Exit {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::Failure
    })
}
