//! The scenarios, in order of importance.

mod backlog;
mod build;
mod catch_up;
mod freshness;
mod many;
mod overflow;
mod read;
mod refreshing;
mod verify;
mod writers;

use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::bench::Bench;
use crate::report::Section;

type Run = for<'a> fn(&'a Bench) -> BoxFuture<'a, anyhow::Result<Section>>;

/// By name.
const ALL: &[(&str, Run)] = &[
    ("freshness", |bench| freshness::run(bench).boxed()),
    ("many", |bench| many::run(bench).boxed()),
    ("backlog", |bench| backlog::run(bench).boxed()),
    ("catch_up", |bench| catch_up::run(bench).boxed()),
    ("build", |bench| build::run(bench).boxed()),
    ("verify", |bench| verify::run(bench).boxed()),
    ("overflow", |bench| overflow::run(bench).boxed()),
    ("writers", |bench| writers::run(bench).boxed()),
    ("read", |bench| read::run(bench).boxed()),
    ("refreshing", |bench| refreshing::run(bench).boxed()),
];

/// The names of all.
pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, _)| *name).collect()
}

/// Runs one; its figures are printed as soon as they are there.
pub(crate) async fn run(bench: &Bench, name: &str) -> anyhow::Result<Section> {
    let (_, scenario) = ALL
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| anyhow::anyhow!("there is no scenario \"{name}\"; there are {}", names().join(", ")))?;
    let began = Instant::now();
    eprintln!("{name}");
    let mut section = scenario(bench).await.map_err(|error| error.context(name.to_owned()))?;
    section.seconds = began.elapsed().as_secs_f64();
    for figure in &section.figures {
        eprintln!("  {}", figure.line());
    }
    eprintln!("  {:.0} s", section.seconds);
    Ok(section)
}
