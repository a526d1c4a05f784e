//! What several commands do alike.

use anyhow::{Context as _, bail};
use comfy_table::{ContentArrangement, Table, presets};
use lockstep_config::{Config, did_you_mean, nearest};
use lockstep_connect::Session;

use crate::Exit;

/// A table without lines, as wide as its contents.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header.iter().copied());
    table
}

/// A session on the target, if lockstep is set up there and knows the projection.
pub(super) async fn installed_target(config: &Config, name: Option<&str>) -> anyhow::Result<Session> {
    let target = Session::open(config.target_settings(), "lockstep command").await.context("target")?;
    let installed: bool = target.query_one("SELECT to_regclass('lockstep.request') IS NOT NULL", &[]).await?.get(0);
    if !installed {
        bail!("nothing is set up in {} yet: lockstep run", config.target_settings().summary());
    }
    if let Some(name) = name
        && target.query_opt("SELECT FROM lockstep.projection WHERE name = $1", &[&name]).await?.is_none()
    {
        let rows = target.query("SELECT name FROM lockstep.projection WHERE part_of IS NULL ORDER BY 1", &[]).await?;
        let known: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        bail!("there is no projection {name}; {}", did_you_mean(name, known, "lockstep status lists them"));
    }
    Ok(target)
}

/// Says so if a name is not configured.
pub(super) fn unknown_projection<'a, N: AsRef<str> + 'a>(config: &Config, mut names: impl Iterator<Item = N>) -> Option<Exit> {
    let known = |name: &str| config.projections.iter().any(|projection| projection.name == name);
    let unknown = names.find(|name| !known(name.as_ref()))?;
    let known: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
    let there_are = format!("there are {}", known.join(", "));
    let help = match nearest(unknown.as_ref(), known.iter().copied()) {
        Some(meant) => format!("did you mean \"{meant}\"? {there_are}"),
        None => there_are,
    };
    eprintln!("error: no projection \"{}\" in {}; {help}", unknown.as_ref(), config.path.display());
    Some(Exit::Usage)
}

pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
