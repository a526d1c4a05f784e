//! One transaction that is larger than what is remembered of changed rows.

use std::time::Instant;

use lockstep_connect::Session;

use crate::bench::{Bench, session};
use crate::equality::ensure_equal;
use crate::projections::QUIET;
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Section};

const PROJECTIONS: &str = r#"
[[projection]]
name = "booking_list"
sql = "SELECT b.id, b.account, b.amount, b.label FROM booking b WHERE b.amount > 0"

[[projection]]
name = "balance"
sql = "SELECT b.account, count(*) AS bookings, sum(b.amount) AS total, max(b.id) AS latest FROM booking b GROUP BY b.account"
"#;

/// Seconds of the build and of the transaction, and the greatest resident memory.
#[derive(Default)]
struct Found {
    build: Vec<f64>,
    contained: Vec<f64>,
    memory: Vec<f64>,
}

async fn round(bench: &Bench, setup: &Setup, source: &Session, found: &mut Found) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut projector = Projector::spawn(bench, setup).await?;
    projector.until_live().await?;
    found.build.push(began.elapsed().as_secs_f64());
    projector.until_contained().await?;
    source.batch_execute("UPDATE booking SET amount = amount + 1").await?;
    let began = Instant::now();
    projector.until_contained().await?;
    found.contained.push(began.elapsed().as_secs_f64());
    found.memory.extend(projector.memory_peak());
    ensure_equal(&mut projector).await?;
    projector.stop_and_tear_down().await?;
    Ok(source.batch_execute("VACUUM booking").await?)
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let rows = bench.rows(300_000, 3_000_000);
    let cluster = bench.empty()?;
    let setup =
        Setup { source: cluster.url("postgres"), target: None, configuration: format!("{QUIET}{PROJECTIONS}"), projections: 2 };
    let source = session(&setup.source).await?;
    source
        .batch_execute(&format!(
            "CREATE TABLE booking (id bigint PRIMARY KEY, account integer NOT NULL, amount numeric(12,2) NOT NULL, label text NOT NULL);
             INSERT INTO booking SELECT n, n % 1000, n % 500 + 1, 'booking number ' || n FROM generate_series(1, {rows}) AS n"
        ))
        .await?;
    source.batch_execute("VACUUM ANALYZE booking").await?;
    let mut found = Found::default();
    for _ in 0..bench.few_rounds() {
        round(bench, &setup, &source, &mut found).await?;
    }
    let mut figures = vec![Figure::new("until contained", "s", found.contained).against("the build", found.build)];
    if !found.memory.is_empty() {
        figures.push(Figure::new("resident memory at its greatest", "MiB", found.memory));
    }
    Ok(Section {
        name: "overflow",
        title: "A transaction larger than memory for it",
        about: format!(
            "One UPDATE of all {rows} rows of a table behind two projections, one of rows and one of groups: more than are remembered one \
             by one, so both are recomputed. From the commit until both contain it, against the time in which they were built."
        ),
        figures,
        pictures: Vec::new(),
        seconds: 0.0,
    })
}
