//! The commands that look or tidy, one a file.

mod check;
mod plan;
mod status;
mod teardown;
mod wait;

pub use check::check;
pub use plan::plan;
pub use status::status;
pub use teardown::teardown;
pub use wait::wait;

use comfy_table::{ContentArrangement, Table, presets};

/// A table without lines, as wide as its contents.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header.iter().copied());
    table
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
