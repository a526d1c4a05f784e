//! Reading over HTTP, while the products change.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lockstep_connect::Session;
use tokio::sync::Mutex;

use super::backlog::search_view;
use super::freshness::{NEW_PRICE, PRODUCTS};
use crate::bench::{Bench, DATABASE, session, settings};
use crate::equality::ensure_equal;
use crate::http::Client;
use crate::projector::{Projector, Setup};
use crate::report::{Figure, Section};
use crate::statistics::quantile;
use crate::writers::{Change, paced, texts};

/// Each client thinks between two requests.
const THINKING: Duration = Duration::from_secs(1);

/// So much at the beginning has no weight.
const LEAD: Duration = Duration::from_secs(1);

/// Commits a second beside them.
const RATE: u32 = 100;

/// Sessions of the anchor: as many as the read API has.
const SESSIONS: usize = 10;

/// A kind of request: how many clients make it, its path, where `{}` stands for the least price, and the statements that PostgreSQL
/// needs for the like.
struct Request {
    what: &'static str,
    clients: u32,
    path: &'static str,
    rows: &'static str,
    condition: &'static str,
    facets: &'static [&'static str],
}

const COLUMNS: &str =
    "SELECT id, slug, name, sku, recommended_price, inventory, brand, in_stock, created_at FROM read_model.product_search";

const REQUESTS: [Request; 3] = [
    Request {
        what: "list",
        clients: 50,
        path: "/api/products?priceMin={}&total=exact",
        rows: "ORDER BY created_at DESC, id LIMIT 20",
        condition: "status = 'publish' AND recommended_price >= $1::float8::numeric",
        facets: &[],
    },
    Request {
        what: "list with three facets",
        // Each has to count all products four times.
        clients: 10,
        path: "/api/products?priceMin={}&total=exact&facets=brand,category,price",
        rows: "ORDER BY created_at DESC, id LIMIT 20",
        condition: "status = 'publish' AND recommended_price >= $1::float8::numeric",
        facets: &["brand", "category_id", "width_bucket(recommended_price, 0, 400, 10)"],
    },
    Request {
        what: "search of a common word",
        clients: 50,
        path: "/api/products/search?q=durable&priceMin={}&total=exact",
        rows: "ORDER BY ts_rank(search_vector, websearch_to_tsquery('english', 'durable')) DESC, id LIMIT 20",
        condition: "status = 'publish' AND recommended_price >= $1::float8::numeric AND search_vector @@ websearch_to_tsquery('english', 'durable')",
        facets: &[],
    },
];

impl Request {
    fn statements(&self) -> Vec<String> {
        let count = format!("SELECT count(*) FROM read_model.product_search WHERE {}", self.condition);
        let rows = format!("{COLUMNS} WHERE {} {}", self.condition, self.rows);
        let facets = self.facets.iter().map(|column| {
            format!(
                "SELECT {column}::text, count(*) FROM read_model.product_search WHERE {} GROUP BY 1 ORDER BY 2 DESC LIMIT 50",
                self.condition
            )
        });
        [rows, count].into_iter().chain(facets).collect()
    }
}

/// One who asks: over HTTP, or PostgreSQL itself, of whose sessions clients take turns.
enum Asker {
    Http(Box<Client>),
    Sql(Arc<Mutex<(Session, Vec<tokio_postgres::Statement>)>>),
}

impl Asker {
    /// Whether there was an answer in time.
    async fn ask(&mut self, request: &Request, price: u32) -> anyhow::Result<bool> {
        match self {
            Self::Http(client) => {
                let Some(body) = client.get(&request.path.replace("{}", &price.to_string())).await? else { return Ok(false) };
                anyhow::ensure!(body.starts_with(b"{\"success\":true"), "{}", String::from_utf8_lossy(&body));
            }
            Self::Sql(shared) => {
                let shared = shared.lock().await;
                for statement in &shared.1 {
                    shared.0.query(statement, &[&f64::from(price)]).await?;
                }
            }
        }
        Ok(true)
    }
}

async fn askers(request: &Request, address: Option<SocketAddr>, url: &str) -> anyhow::Result<Vec<Asker>> {
    if let Some(address) = address {
        let clients = try_join_all((0..request.clients).map(|_| Client::connect(address))).await?;
        return Ok(clients.into_iter().map(|client| Asker::Http(Box::new(client))).collect());
    }
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let session = session(url).await?;
        let mut statements = Vec::new();
        for statement in request.statements() {
            statements.push(session.prepare(&statement).await?);
        }
        sessions.push(Arc::new(Mutex::new((session, statements))));
    }
    Ok(sessions.iter().cycle().take(request.clients as usize).map(|shared| Asker::Sql(shared.clone())).collect())
}

/// What became of the requests of a window.
#[derive(Default)]
struct Asked {
    /// Milliseconds of each.
    times: Vec<f64>,
    /// Those without an answer in time.
    late: u32,
}

async fn asked(request: &'static Request, askers: Vec<Asker>, window: Duration) -> anyhow::Result<Asked> {
    let began = Instant::now();
    let tasks = (0_u32..).zip(askers).map(|(number, mut asker)| {
        tokio::spawn(async move {
            let mut found = Asked::default();
            // A price of its own for each request: equal ones would be answered together.
            let mut price = 20 + number * 2;
            tokio::time::sleep(THINKING * number / request.clients).await;
            while began.elapsed() < LEAD + window {
                let asking = Instant::now();
                let in_time = asker.ask(request, price).await?;
                if asking.duration_since(began) >= LEAD {
                    found.times.push(asking.elapsed().as_secs_f64() * 1000.0);
                    found.late += u32::from(!in_time);
                }
                price = 20 + (price + 37) % 100;
                tokio::time::sleep(THINKING).await;
            }
            anyhow::Ok(found)
        })
    });
    let mut found = Asked::default();
    for task in tasks.collect::<Vec<_>>() {
        let one = task.await??;
        found.times.extend(one.times);
        found.late += one.late;
    }
    Ok(found)
}

/// The same while products change.
async fn round(bench: &Bench, request: &'static Request, address: Option<SocketAddr>, url: &str) -> anyhow::Result<Asked> {
    let window = bench.window(3.0, 30.0);
    let source = session(url).await?;
    let changes = texts(&source, PRODUCTS).await?.into_iter().map(|key| Change { statement: 0, key }).collect();
    let askers = askers(request, address, url).await?;
    let settings = settings(url)?;
    let (_, found) = tokio::try_join!(paced(&settings, &[NEW_PRICE], changes, RATE, window), asked(request, askers, window))?;
    Ok(found)
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let products = bench.rows(20_000, 100_000);
    let cluster = bench.shop(products).await?;
    let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let setup = search_view(cluster.url(DATABASE));
    let setup = Setup { configuration: format!("{}[api]\nlisten = \"{address}\"\n", setup.configuration), ..setup };
    let mut projector = Projector::start(bench, &setup).await?;
    let mut figures = Vec::new();
    for request in &REQUESTS {
        let (mut ours, mut anchor, mut late) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()], Vec::new());
        for _ in 0..bench.few_rounds() {
            let (mine, others) =
                (round(bench, request, Some(address), &setup.source).await?, round(bench, request, None, &setup.source).await?);
            late.push(f64::from(mine.late));
            for (place, share) in [0.5, 0.95].into_iter().enumerate() {
                ours[place].push(quantile(&mine.times, share));
                anchor[place].push(quantile(&others.times, share));
            }
        }
        for ((share, ours), anchor) in ["p50", "p95"].into_iter().zip(ours).zip(anchor) {
            let what = format!("{}, {} clients, {share}", request.what, request.clients);
            figures.push(Figure::new(what, "ms", ours).against("PostgreSQL itself", anchor));
        }
        // As it should be, this is not worth a line.
        if late.iter().any(|late| *late > 0.0) {
            figures.push(Figure::new(format!("{}, not answered in time", request.what), "requests", late));
        }
    }
    ensure_equal(&mut projector).await?;
    projector.stop().await?;
    Ok(Section {
        name: "read",
        title: "Reading over HTTP",
        about: format!(
            "Clients, each of which thinks for a second between two requests, ask the read API for products among {products} posts, with \
             exact totals, while {RATE} commits a second change prices; no two requests are equal at the same time. Anchor: as many clients run the like statements (rows, total, facets) on the same table through {SESSIONS} \
             sessions, as many as the read API has."
        ),
        figures,
        pictures: Vec::new(),
        seconds: 0.0,
    })
}
