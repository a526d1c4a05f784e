//! From commit to visible of one search view, at several rates, against PostgreSQL's logical replication of its source table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use lockstep_connect::{Session, Settings};

use crate::bench::{Bench, DATABASE, session, settings};
use crate::equality::ensure_equal;
use crate::latency::{Clock, Latencies, Pair, milliseconds};
use crate::projections::{QUIET, product_search};
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Picture, Section, Series, Wanted};
use crate::statistics::median;
use crate::subscription::Subscription;
use crate::waiting::position;
use crate::writers::{Change, Written, paced, texts};

/// How often it is looked what a batch took: seldom enough not to be noticed.
const LOOK: Duration = Duration::from_millis(200);

/// Commits a second, and how many times the anchor's median and tail are wanted at most.
const RATES: [(u32, f64, Option<f64>); 3] = [(10, 1.5, Some(2.0)), (100, 1.5, Some(2.0)), (500, 2.5, None)];

/// The rate at which a target in another cluster is looked at in a quick run, too.
const RATE_APART: u32 = 100;

/// Changes a product so that its row of the search view is another, whatever it was.
pub(super) const NEW_PRICE: &str = "UPDATE custom_posts
    SET \"customFields\" = jsonb_set(\"customFields\", '{recommendedPrice}', to_jsonb((\"customFields\" ->> 'recommendedPrice')::int + 1)),
        \"updatedAt\" = now()
    WHERE id = $1::text::uuid";

/// A copy of the source table on a subscriber.
pub(super) const COPY: &str = "CREATE TABLE custom_posts (id uuid PRIMARY KEY, \"postTypeId\" uuid NOT NULL, slug text NOT NULL,
    title text NOT NULL, content text, status text NOT NULL, \"customFields\" jsonb NOT NULL, \"createdAt\" timestamptz NOT NULL,
    \"updatedAt\" timestamptz NOT NULL, \"publishedAt\" timestamptz)";

/// The keys of products that the search view shows, in no order.
pub(super) const PRODUCTS: &str = "SELECT p.id::text FROM custom_posts p JOIN custom_post_types t ON t.id = p.\"postTypeId\"
    WHERE t.slug = 'product' ORDER BY md5(p.id::text)";

/// Writes at a rate and says what became of it.
pub(super) async fn write(settings: &Settings, source: &Session, rate: u32, bench: &Bench) -> anyhow::Result<Written> {
    let changes = texts(source, PRODUCTS).await?.into_iter().map(|key| Change { statement: 0, key }).collect();
    let window = bench.window(4.0, 30.0);
    paced(settings, &[NEW_PRICE], changes, rate, window).await
}

/// What one round of ours was.
pub(super) struct Round {
    /// Milliseconds from commit to visible.
    pub(super) times: Vec<f64>,
    /// Commits a second that were reached.
    reached: f64,
    /// How long a batch took from its snapshot to its commit, and how much of that the fence; means of all that were seen.
    batch: f64,
    fence: f64,
}

/// One round of ours.
pub(super) async fn ours(bench: &Bench, setup: &Setup, projector: &mut Projector, rate: u32) -> anyhow::Result<Round> {
    let (settings, onlooker) = (settings(&setup.source)?, session(setup.target_url()).await?);
    let mut seen = Vec::new();
    let written = tokio::select! {
        written = write(&settings, &projector.source, rate, bench) => written?,
        looked = batches(&onlooker, &mut seen) => bail!("looked for ever: {looked:?}"),
    };
    projector.until_contained().await?;
    let keys = written.keys(0);
    let times = milliseconds(&projector.source, &projector.target, &Pair::product(), &keys, &Clock::Commit).await?;
    let mean = |of: fn(&(f64, f64)) -> f64| seen.iter().map(of).sum::<f64>() / f64::from(u32::try_from(seen.len()).unwrap_or(1));
    Ok(Round { times, reached: written.rate, batch: mean(|seen| seen.0), fence: mean(|seen| seen.1) })
}

/// Looks now and then what the last batch took; does not end by itself.
async fn batches(session: &Session, seen: &mut Vec<(f64, f64)>) -> anyhow::Result<()> {
    let last = session.prepare("SELECT batch_ms, fence_ms FROM lockstep.checkpoint WHERE group_name = 'default'").await?;
    loop {
        tokio::time::sleep(LOOK).await;
        for row in session.query(&last, &[]).await? {
            if let (Some(batch), Some(fence)) = (row.get(0), row.get(1)) {
                seen.push((batch, fence));
            }
        }
    }
}

async fn native(bench: &Bench, subscription: &Subscription, rate: u32) -> anyhow::Result<Vec<f64>> {
    let from = position(&subscription.target).await?;
    let written = write(&subscription.settings()?, &subscription.source, rate, bench).await?;
    subscription.until_contained().await?;
    let (source, target) = (&subscription.source, &subscription.target);
    milliseconds(source, target, &Pair::product_copy(), &written.keys(0), &Clock::Wal(from)).await
}

/// What was found at one rate.
#[derive(Default)]
struct AtRate {
    ours: Latencies,
    apart: Latencies,
    native: Latencies,
    reached: Vec<f64>,
    /// What a batch took, and its fence.
    batch: Phases,
    batch_apart: Phases,
}

/// Milliseconds, one for each round.
#[derive(Default)]
struct Phases {
    all: Vec<f64>,
    fence: Vec<f64>,
}

impl Phases {
    fn add(&mut self, round: &Round) {
        self.all.push(round.batch);
        self.fence.push(round.fence);
    }
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(20_000, 100_000);
    let (together, apart, publisher, other) =
        (bench.shop(products).await?, bench.shop(products).await?, bench.shop(products).await?, bench.empty()?);
    session(&other.url("postgres")).await?.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
    let setup = Setup {
        source: together.url(DATABASE),
        target: None,
        configuration: format!("{QUIET}{}", product_search()),
        projections: 1,
    };
    let setup_apart = Setup { source: apart.url(DATABASE), target: Some(other.url(DATABASE)), ..setup.clone() };
    let mut projector = Projector::start(bench, &setup).await?;
    let mut projector_apart = Projector::start(bench, &setup_apart).await?;
    let subscription = Subscription::start(bench, publisher, "custom_posts", COPY).await?;
    let mut found: BTreeMap<u32, AtRate> = BTreeMap::new();
    for _ in 0..bench.rounds() {
        for (rate, ..) in RATES {
            let at = found.entry(rate).or_default();
            let round = ours(bench, &setup, &mut projector, rate).await?;
            at.ours.add(&round.times);
            at.reached.push(round.reached);
            at.batch.add(&round);
            at.native.add(&native(bench, &subscription, rate).await?);
            // A quick run looks at this once a round.
            if bench.full || rate == RATE_APART {
                let round = ours(bench, &setup_apart, &mut projector_apart, rate).await?;
                at.apart.add(&round.times);
                at.batch_apart.add(&round);
            }
        }
    }
    ensure_equal(&mut projector).await?;
    ensure_equal(&mut projector_apart).await?;
    projector.stop().await?;
    projector_apart.stop().await?;
    Ok(section(products, &found))
}

/// What a batch took, from its snapshot to its commit.
fn phases(at: &str, phases: &Phases) -> [Figure; 2] {
    [
        Figure::new(format!("{at}, a batch"), "ms", phases.all.clone()),
        Figure::new(format!("{at}, of which the fence"), "ms", phases.fence.clone()),
    ]
}

fn section(products: u32, found: &BTreeMap<u32, AtRate>) -> Section {
    let mut figures = Vec::new();
    for (rate, times, tail) in RATES {
        let Some(at) = found.get(&rate) else { continue };
        let figure = |what: &str, ours: &[f64], native: &[f64]| {
            Figure::new(format!("{rate}/s, {what}"), "ms", ours.to_vec()).against("native", native.to_vec())
        };
        figures.push(figure("p50", &at.ours.p50, &at.native.p50).wanted(Wanted::TimesAtMost(times)));
        let p99 = figure("p99", &at.ours.p99, &at.native.p99);
        figures.push(match tail {
            Some(times) => p99.wanted(Wanted::TimesAtMost(times)),
            None => p99,
        });
        figures.extend(phases(&format!("{rate}/s"), &at.batch));
        figures.push(Figure::new(format!("{rate}/s, commits reached"), "per second", at.reached.clone()));
        if at.apart.samples == 0 {
            continue;
        }
        let apart = format!("{rate}/s, target in another cluster");
        figures.push(Figure::new(format!("{apart}, p50"), "ms", at.apart.p50.clone()).against("native", at.native.p50.clone()));
        figures.push(Figure::new(format!("{apart}, p99"), "ms", at.apart.p99.clone()).against("native", at.native.p99.clone()));
        figures.extend(phases(&apart, &at.batch_apart));
    }
    let line = |name: &str, of: fn(&AtRate) -> &Vec<f64>| Series {
        name: name.to_owned(),
        points: found.iter().map(|(rate, at)| (f64::from(*rate), median(of(at)))).collect(),
    };
    let picture = Picture {
        file: "freshness.svg".to_owned(),
        title: "From commit to visible".to_owned(),
        axes: ("commits a second".to_owned(), "milliseconds".to_owned()),
        series: vec![
            line("Lockstep, p50", |at| &at.ours.p50),
            line("native, p50", |at| &at.native.p50),
            line("Lockstep, p99", |at| &at.ours.p99),
            line("native, p99", |at| &at.native.p99),
        ],
    };
    Section {
        name: "freshness",
        title: "Freshness of one projection",
        about: format!(
            "`product_search` with its seventeen indexes over {products} posts, in the source's database and in another cluster; each \
             commit changes the price of another product. Native: a subscription of `custom_posts` alone into a table with nothing \
             but its primary key, in a second cluster, which computes nothing."
        ),
        figures,
        pictures: vec![picture],
        seconds: 0.0,
    }
}
