//! Many projections: those of the demonstration under its kind of load, and one beside more and more others that no change concerns.

use lockstep_connect::Session;

use super::freshness;
use crate::bench::{Bench, DATABASE, session, settings};
use crate::equality::ensure_equal;
use crate::latency::{Clock, Latencies, Pair, milliseconds};
use crate::projections::{QUIET, demonstration, product_search};
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Picture, Section, Series, Wanted};
use crate::statistics::median;
use crate::writers::{Change, paced, texts};

/// Commits a second.
const RATE: u32 = 100;

/// Other projections, each over a table of its own; the last only in a full run.
const OTHERS: [usize; 6] = [0, 1, 4, 13, 50, 200];

/// Other projections that each change concerns.
const CONCERNED: [usize; 2] = [4, 13];

/// Rows of each of the other tables.
const OTHER_ROWS: u32 = 100;

/// What an application does: a statement, how often out of 22, the query of the keys of the rows that it may change, each once, and
/// the row that shows it.
struct Kind {
    statement: &'static str,
    weight: usize,
    keys: &'static str,
    shown: fn() -> Option<Pair>,
}

/// As the demonstration's workload, but that no row is changed twice.
const KINDS: [Kind; 7] = [
    Kind { statement: freshness::NEW_PRICE, weight: 10, keys: freshness::PRODUCTS, shown: || Some(Pair::product()) },
    Kind {
        statement: "INSERT INTO sales.\"order\" (id, inventory_item_id, platform_id, external_id, status, sold_at, gross_sale, net_profit,
                        platform_fee, shipping_cost, roi, platform_specific_data)
                    SELECT $1::text::uuid, s.id, m.id, 'LIVE-' || $1, 'completed', localtimestamp, 120, 30, 12.5, 8.5, 25,
                        '{\"orderId\": \"PO-LIVE\", \"shippingCost\": 8.5, \"totalFees\": 21}'
                    FROM (SELECT id FROM inventory.stock WHERE id <= $1::text::uuid ORDER BY id DESC LIMIT 1) s,
                         (SELECT id FROM platform.marketplace ORDER BY md5(name || $1) LIMIT 1) m",
        weight: 5,
        keys: "SELECT gen_random_uuid()::text FROM generate_series(1, 20000)",
        shown: || Some(order()),
    },
    Kind {
        statement: "UPDATE sales.\"order\" SET status = 'returned', net_profit = -1 - abs(net_profit) WHERE id = $1::text::uuid",
        weight: 2,
        keys: "SELECT id::text FROM sales.\"order\" WHERE external_id LIKE 'EXT-%' AND id < '80000000-0000-0000-0000-000000000000' ORDER BY md5(id::text)",
        shown: || Some(order()),
    },
    Kind {
        statement: "DELETE FROM sales.\"order\" WHERE id = $1::text::uuid",
        weight: 1,
        keys: "SELECT id::text FROM sales.\"order\" WHERE external_id LIKE 'EXT-%' AND id >= '80000000-0000-0000-0000-000000000000' ORDER BY md5(id::text)",
        shown: || None,
    },
    Kind {
        statement: "UPDATE inventory.stock SET quantity = quantity + 1 WHERE id = $1::text::uuid",
        weight: 2,
        keys: "SELECT id::text FROM inventory.stock WHERE id < '80000000-0000-0000-0000-000000000000' ORDER BY md5(id::text)",
        shown: || Some(stock("inventory.stock", "id")),
    },
    Kind {
        statement: "UPDATE inventory.stock_financial SET sale_price = coalesce(sale_price, 0) + 1 WHERE stock_id = $1::text::uuid",
        weight: 1,
        keys: "SELECT id::text FROM inventory.stock WHERE id >= '80000000-0000-0000-0000-000000000000' ORDER BY md5(id::text)",
        shown: || Some(stock("inventory.stock_financial", "stock_id")),
    },
    Kind {
        statement: "UPDATE items SET status = status || '+', category = category || '+' WHERE id = $1::text::bigint",
        weight: 3,
        keys: "SELECT id::text FROM items WHERE geohash IS NOT NULL AND NOT is_deleted ORDER BY md5(id::text)",
        shown: || Some(Pair { source: ("items", "id"), target: ("read_model.item_buckets".to_owned(), "item_id"), key_type: "bigint" }),
    },
];

fn order() -> Pair {
    Pair { source: ("sales.\"order\"", "id"), target: ("read_model.order_search".to_owned(), "id"), key_type: "uuid" }
}

fn stock(table: &'static str, key: &'static str) -> Pair {
    Pair { source: (table, key), target: ("read_model.stock_consolidated".to_owned(), "id"), key_type: "uuid" }
}

/// An order and what it contributes to the sums by day, which are in the other group: a sum's own row is written by many changes.
async fn contribution(target: &Session) -> anyhow::Result<Pair> {
    let table = "SELECT a.attrelid::regclass::text FROM lockstep.projection AS p, unnest(p.state_tables) AS t
                 JOIN pg_attribute AS a ON a.attrelid = to_regclass('lockstep.' || quote_ident(t)) AND a.attname = 'k1'
                 WHERE p.name = 'daily_sales_summary' LIMIT 1";
    Ok(Pair { target: (target.query_one(table, &[]).await?.get(0), "k1"), ..order() })
}

/// So many of each kind as it has a share in, in turn.
async fn changes(source: &Session, count: usize) -> anyhow::Result<Vec<Change>> {
    let total: usize = KINDS.iter().map(|kind| kind.weight).sum();
    let mut placed = Vec::new();
    for (statement, kind) in KINDS.iter().enumerate() {
        let wanted = count * kind.weight / total;
        let keys = texts(source, kind.keys).await?.into_iter().take(wanted);
        // By where in the turn it comes: the kinds are spread evenly.
        placed.extend(keys.enumerate().map(|(n, key)| ((2 * n + 1) * total / kind.weight, Change { statement, key })));
    }
    placed.sort_by_key(|(place, _)| *place);
    Ok(placed.into_iter().map(|(_, change)| change).collect())
}

/// One round of the demonstration's load: milliseconds of each change and each group that shows it.
async fn load(bench: &Bench, setup: &Setup, projector: &mut Projector) -> anyhow::Result<Vec<f64>> {
    let window = bench.window(6.0, 60.0);
    let count = (window.as_secs_f64() + 2.0) * f64::from(RATE);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let changes = changes(&projector.source, count as usize).await?;
    let statements: Vec<&str> = KINDS.iter().map(|kind| kind.statement).collect();
    let written = paced(&settings(&setup.source)?, &statements, changes, RATE, window).await?;
    projector.until_contained().await?;
    let contribution = contribution(&projector.target).await?;
    let mut found = Vec::new();
    for (statement, kind) in KINDS.iter().enumerate() {
        let keys = written.keys(statement);
        let shown = (kind.shown)().filter(|_| !keys.is_empty());
        let summed = shown.as_ref().filter(|pair| pair.source == contribution.source).map(|_| contribution.clone());
        for pair in shown.iter().chain(&summed) {
            found.extend(milliseconds(&projector.source, &projector.target, pair, &keys, &Clock::Commit).await?);
        }
    }
    Ok(found)
}

async fn demonstrated(bench: &Bench, products: u32) -> anyhow::Result<(Latencies, usize)> {
    let cluster = bench.shop(products).await?;
    let (configuration, projections) = demonstration()?;
    let setup = Setup { source: cluster.url(DATABASE), target: None, configuration, projections };
    let mut projector = Projector::start(bench, &setup).await?;
    let mut latencies = Latencies::default();
    for _ in 0..bench.rounds() {
        latencies.add(&load(bench, &setup, &mut projector).await?);
    }
    ensure_equal(&mut projector).await?;
    projector.command(&["verify"]).await?;
    projector.stop().await?;
    Ok((latencies, projections))
}

/// The search view beside others.
struct Beside {
    others: usize,
    /// Whether each change is theirs, too.
    concerned: bool,
    latencies: Latencies,
}

impl Beside {
    fn new(others: usize, concerned: bool) -> Self {
        Self { others, concerned, latencies: Latencies::default() }
    }

    fn setup(&self, source: String) -> Setup {
        let sql = |n: usize| {
            if self.concerned {
                return "SELECT id, title, status, (\"customFields\" ->> 'recommendedPrice')::numeric AS price FROM custom_posts"
                    .to_owned();
            }
            format!("SELECT id, label, amount FROM other.t{n} WHERE amount >= 0")
        };
        let name = if self.concerned { "concerned" } else { "other" };
        let others: String =
            (1..=self.others).map(|n| format!("[[projection]]\nname = \"{name}_{n}\"\nsql = \"\"\"{}\"\"\"\n", sql(n))).collect();
        Setup {
            source,
            target: None,
            configuration: format!("{QUIET}{}{others}", product_search()),
            projections: self.others + 1,
        }
    }

    fn what(&self) -> String {
        let kind = if self.concerned { "that each change concerns" } else { "of other tables" };
        format!("beside {} {kind}", self.others)
    }
}

/// Tables that nothing changes.
fn other_tables(count: usize) -> String {
    let tables: String = (1..=count)
        .map(|n| {
            format!(
                "CREATE TABLE other.t{n} (id bigint PRIMARY KEY, label text NOT NULL, amount integer NOT NULL);
                 INSERT INTO other.t{n} SELECT n, 'row ' || n, n FROM generate_series(1, {OTHER_ROWS}) AS n;"
            )
        })
        .collect();
    format!("CREATE SCHEMA other; {tables}")
}

async fn beside_others(bench: &Bench, products: u32) -> anyhow::Result<Vec<Beside>> {
    let cluster = bench.shop(products).await?;
    let url = cluster.url(DATABASE);
    let last = if bench.full { OTHERS.len() } else { OTHERS.len() - 1 };
    let others = &OTHERS[..last];
    session(&url).await?.batch_execute(&other_tables(others.last().copied().unwrap_or_default())).await?;
    let mut found: Vec<Beside> = others.iter().map(|count| Beside::new(*count, false)).collect();
    found.extend(CONCERNED.map(|count| Beside::new(count, true)));
    for round in 0..bench.few_rounds() {
        // Up and down again: each is beside its neighbours.
        let order: Vec<usize> = if round % 2 == 0 { (0..found.len()).collect() } else { (0..found.len()).rev().collect() };
        for place in order {
            let setup = found[place].setup(url.clone());
            let mut projector = Projector::start(bench, &setup).await?;
            found[place].latencies.add(&freshness::ours(bench, &setup, &mut projector, RATE).await?.times);
            ensure_equal(&mut projector).await?;
            projector.stop().await?;
        }
    }
    Ok(found)
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(20_000, 100_000);
    let (demonstrated, projections) = demonstrated(bench, products).await?;
    let beside = beside_others(bench, products).await?;
    let mut figures = vec![
        Figure::new(format!("{projections} projections, p50"), "ms", demonstrated.p50).wanted(Wanted::AtMost(4.0)),
        Figure::new(format!("{projections} projections, p99"), "ms", demonstrated.p99).wanted(Wanted::AtMost(25.0)),
    ];
    let alone = beside.first().map(|alone| alone.latencies.clone()).unwrap_or_default();
    for one in beside.iter().filter(|one| one.others > 0) {
        let figure = |what: &str, rounds: &[f64], alone: &[f64]| {
            Figure::new(format!("{}, {what}", one.what()), "ms", rounds.to_vec()).against("alone", alone.to_vec())
        };
        figures.push(figure("p50", &one.latencies.p50, &alone.p50));
        figures.push(figure("p99", &one.latencies.p99, &alone.p99));
    }
    Ok(Section {
        name: "many",
        title: "Freshness of many projections",
        about: format!(
            "First the demonstration's {projections} projections over {products} products, stock items and orders, at {RATE} commits a \
             second of its kind: prices, new orders, returns, deletions, stock and items, one row each. Then prices alone change, and \
             `product_search` stands beside others: of tables that do not change, and of the table that changes. What a change costs \
             should follow from the projections that it concerns, not from those that there are."
        ),
        figures,
        pictures: vec![picture(&beside)],
        seconds: 0.0,
    })
}

#[allow(clippy::cast_precision_loss)]
fn picture(beside: &[Beside]) -> Picture {
    let line = |name: &str, concerned: bool, of: fn(&Latencies) -> &Vec<f64>| Series {
        name: name.to_owned(),
        points: beside
            .iter()
            .filter(|one| one.concerned == concerned || one.others == 0)
            .map(|one| (one.others as f64, median(of(&one.latencies))))
            .collect(),
    };
    Picture {
        file: "many.svg".to_owned(),
        title: "From commit to visible, beside other projections".to_owned(),
        axes: ("other projections".to_owned(), "milliseconds".to_owned()),
        series: vec![
            line("of other tables, p50", false, |latencies| &latencies.p50),
            line("that each change concerns, p50", true, |latencies| &latencies.p50),
            line("of other tables, p99", false, |latencies| &latencies.p99),
        ],
    }
}
