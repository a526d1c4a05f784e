//! placeholder
use crate::Exit;
use crate::cli::DemoArguments;
/// Runs the demonstration.
pub async fn run(_arguments: &DemoArguments, _json: bool) -> anyhow::Result<Exit> {
    Ok(Exit::Good)
}
