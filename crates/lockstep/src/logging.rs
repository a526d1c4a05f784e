//! The log.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
///
/// # Errors
/// The filter does not parse.
pub fn start_logging(filter: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    // tokio-postgres logs bound parameters, which are row values; sqlx announces every look at the migrations.
    let quiet = ["tokio_postgres=warn", "sqlx=warn"].into_iter().filter_map(|directive| directive.parse().ok());
    let filter = quiet.fold(filter, EnvFilter::add_directive);
    // What cannot be written, because the disk is full or nobody reads, cannot be complained of there either.
    let builder = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours());
    let started = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
    started.map_err(|error| error.to_string())
}

/// Whether standard error is a terminal that wants colours.
pub fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
