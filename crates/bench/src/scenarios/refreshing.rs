//! From commit to visible while the materialized views behind the read models are refreshed.

use super::backlog::search_view;
use super::freshness;
use crate::bench::{Bench, DATABASE};
use crate::equality::ensure_equal;
use crate::latency::Latencies;
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Section};
use crate::waiting::until;

/// Commits a second.
const RATE: u32 = 100;

/// The next refresh begins at the next second after the last one has ended.
const EVERY_SECOND: &str = "[backstop]\nschedule = \"* * * * * *\"\n";

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(20_000, 100_000);
    let (cluster, quiet_cluster) = (bench.shop(products).await?, bench.shop(products).await?);
    let quiet_setup = search_view(quiet_cluster.url(DATABASE));
    let setup = search_view(cluster.url(DATABASE));
    let setup = Setup { configuration: format!("{}{EVERY_SECOND}", setup.configuration), ..setup };
    let mut quiet = Projector::start(bench, &quiet_setup).await?;
    let (mut latencies, mut anchor, mut refreshes) = (Latencies::default(), Latencies::default(), Vec::new());
    for _ in 0..bench.few_rounds() {
        anchor.add(&freshness::ours(bench, &quiet_setup, &mut quiet, RATE).await?.times);
        // Only while it is measured: refreshing takes a core, which is not to be missed elsewhere.
        let mut refreshing = Projector::start(bench, &setup).await?;
        let refreshed = "SELECT count(*)::float8 FROM lockstep.mv_refresh_log WHERE success";
        let before: f64 = match refreshing.target.query_one(refreshed, &[]).await {
            Ok(row) => row.get(0),
            Err(error) => anyhow::bail!("{}", lockstep_connect::describe(&error)),
        };
        until(&refreshing.target, &format!("SELECT ({refreshed}) > {before}")).await?;
        latencies.add(&freshness::ours(bench, &setup, &mut refreshing, RATE).await?.times);
        let after: f64 = refreshing.target.query_one(refreshed, &[]).await?.get(0);
        refreshes.push(after - before);
        ensure_equal(&mut refreshing).await?;
        refreshing.stop().await?;
    }
    ensure_equal(&mut quiet).await?;
    quiet.stop().await?;
    Ok(Section {
        name: "refreshing",
        title: "Freshness while materialized views are refreshed",
        about: format!(
            "`product_search` over {products} posts at {RATE} commits a second, while the materialized view that stands behind it is \
             refreshed and compared, again as soon as it was. Anchor: the same without."
        ),
        figures: vec![
            Figure::new("p50", "ms", latencies.p50).against("not refreshing", anchor.p50),
            Figure::new("p99", "ms", latencies.p99).against("not refreshing", anchor.p99),
            Figure::new("refreshes in a round", "", refreshes),
        ],
        pictures: Vec::new(),
        seconds: 0.0,
    })
}
