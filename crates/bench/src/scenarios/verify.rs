//! Verifying every row.

use std::time::Instant;

use super::backlog::search_view;
use super::build::materialized_view;
use crate::bench::{Bench, DATABASE, session};
use crate::equality::ensure_equal;
use crate::projector::Projector;
use crate::report::{Figure, Section};

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(60_000, 300_000);
    let cluster = bench.shop(products).await?;
    let setup = search_view(cluster.url(DATABASE));
    let mut projector = Projector::start(bench, &setup).await?;
    let source = session(&setup.source).await?;
    source.batch_execute(&materialized_view()?).await?;
    source.batch_execute("ANALYZE kept").await?;
    let (mut ours, mut anchor) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let began = Instant::now();
        projector.command(&["verify"]).await?;
        ours.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        source.batch_execute("REFRESH MATERIALIZED VIEW CONCURRENTLY kept").await?;
        anchor.push(began.elapsed().as_secs_f64());
    }
    let peak = projector.memory_peak();
    ensure_equal(&mut projector).await?;
    projector.stop().await?;
    let mut figures = vec![Figure::new("every row", "s", ours).against("refresh", anchor)];
    figures.extend(peak.map(|peak| Figure::new("resident memory at its greatest", "MiB", vec![peak])));
    Ok(Section {
        name: "verify",
        title: "Verifying",
        about: format!(
            "`lockstep verify` of `product_search` over {products} posts while `lockstep run` follows, with the command's start. Anchor: \
             REFRESH MATERIALIZED VIEW CONCURRENTLY of the same query with the same indexes, which computes and compares the same rows \
             and finds that none has changed."
        ),
        figures,
        pictures: Vec::new(),
        seconds: 0.0,
    })
}
