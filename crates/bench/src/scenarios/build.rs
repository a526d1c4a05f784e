//! Building the search view from nothing.

use std::time::Instant;

use super::backlog::search_view;
use crate::bench::{Bench, DATABASE, session};
use crate::equality::ensure_equal;
use crate::projections::{indexes_on, query};
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Section};

/// Makes the materialized view `kept` of the search view's query, with the same indexes, one on its key, and statistics.
pub(super) fn materialized_view() -> anyhow::Result<String> {
    let (query, indexes) = (query("product_search")?, indexes_on("product_search", "kept")?);
    Ok(format!("CREATE MATERIALIZED VIEW kept AS {query}; CREATE UNIQUE INDEX ON kept (id); {indexes}; ANALYZE kept"))
}

async fn ours(bench: &Bench, setup: &Setup) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut projector = Projector::spawn(bench, setup).await?;
    projector.until_live().await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure_equal(&mut projector).await?;
    projector.stop_and_tear_down().await?;
    Ok(seconds)
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(60_000, 300_000);
    let cluster = bench.shop(products).await?;
    let setup = search_view(cluster.url(DATABASE));
    let source = session(&setup.source).await?;
    let (mut mine, mut anchor) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        mine.push(ours(bench, &setup).await?);
        let began = Instant::now();
        source.batch_execute(&materialized_view()?).await?;
        anchor.push(began.elapsed().as_secs_f64());
        source.batch_execute("DROP MATERIALIZED VIEW kept").await?;
    }
    Ok(Section {
        name: "build",
        title: "Building",
        about: format!(
            "`product_search` over {products} posts, from the start of `lockstep run` on a database that has never seen it until the \
             projection is live, its seventeen indexes made. Anchor: CREATE MATERIALIZED VIEW of the same query, then the same indexes and ANALYZE, as Lockstep has it."
        ),
        figures: vec![Figure::new("build", "s", mine).against("materialized view", anchor)],
        pictures: Vec::new(),
        seconds: 0.0,
    })
}
