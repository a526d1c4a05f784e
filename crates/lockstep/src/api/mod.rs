//! The read API over HTTP: product endpoints as the migration plan has them, every projection with filters, and the feed of changes.
//!
//! ```text
//!   request ──► answered() (time-out, metrics) ──► products / read / changes ──► lockstep_read::Reader
//!                                                         └──► problem+json, if anything is wrong
//! ```

mod changes;
mod follower;
mod openapi;
mod parameters;
mod problem;
mod products;
mod projections;
mod respond;
mod warm;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use lockstep_plan::chains::{stand_for_projections, tables_of_stand_ins};
use lockstep_read::{Model, Pool, Pools, ReadError, Reader};
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::{ApiConfig, Config};
use crate::listener;
use follower::Follower;
use problem::Problem;
use respond::CacheRatio;

/// Sessions for requests that wait for a position: projections that are looked at for them at the same time.
const LOOKS_MAX: usize = 8;

/// What all handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    reader: Arc<Reader>,
    /// Replaced by a reload.
    config: Arc<RwLock<Arc<ApiConfig>>>,
    follower: Arc<Follower>,
    ratio: Arc<CacheRatio>,
}

impl Api {
    /// Pools and caches for a configuration; nothing is connected yet.
    fn new(config: &Config, api: &ApiConfig) -> Self {
        let target = api.settings.clone().unwrap_or_else(|| config.target_settings().clone());
        // A role of its own for reading need not be able to read the source tables.
        let one_database = config.target.is_none() && api.settings.is_none();
        let pool = |settings, size| Pool::new(settings, size, api.request_timeout / 2, api.request_timeout);
        let pools = Pools {
            target: pool(&target, api.connections),
            source: (!one_database).then(|| pool(&config.source, api.connections.min(api.tables_at_once))),
            waits: Pool::new(&target, LOOKS_MAX, api.read.min_lsn_wait, api.request_timeout),
        };
        let reader = Reader::new(pools, api.tables_at_once, api.request_timeout / 2);
        let follower = Follower::new(target);
        let this = Self {
            reader: Arc::new(reader),
            config: Arc::new(RwLock::new(Arc::new(api.clone()))),
            follower: Arc::new(follower),
            ratio: Arc::default(),
        };
        this.configure(config, api);
        this
    }

    /// Takes another configuration; addresses, roles and sizes stay as they were at the start.
    fn configure(&self, config: &Config, api: &ApiConfig) {
        self.reader.configure(api.read.clone(), models(config, api));
        self.follower.follow(config.projections.iter().filter(|projection| projection.feed).map(|found| found.name.clone()));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(api.clone());
    }

    fn config(&self) -> Arc<ApiConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn models(config: &Config, api: &ApiConfig) -> Vec<Model> {
    let names: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
    let one = |projection: &crate::config::ProjectionConfig| Model {
        name: projection.name.clone(),
        schema: config.schema.clone(),
        on_target: !stand_for_projections(&projection.sql, &config.schema, &names).projections.is_empty(),
        // Printed again, it ends without semicolon and comment.
        sql: tables_of_stand_ins(&projection.sql, &[]).unwrap_or_else(|_| projection.sql.clone()),
        time_zone: projection.time_zone.clone(),
        key: projection.key.clone().unwrap_or_default(),
        is_products: api.products.as_ref() == Some(&projection.name),
        is_items: api.items.as_ref() == Some(&projection.name),
    };
    config.projections.iter().map(one).collect()
}

/// A running API; dropping it does not end it.
pub(crate) struct Running {
    api: Api,
    address: SocketAddr,
}

impl Running {
    /// Takes another configuration.
    pub(crate) fn configure(&self, config: &Config) {
        match &config.api {
            Some(api) => {
                let fixed = self.api.config().fixed_that_differ(api);
                if !fixed.is_empty() {
                    tracing::warn!(
                        "[api] {} has changed, and takes effect at the next start: restart lockstep",
                        fixed.join(", ")
                    );
                }
                self.api.configure(config, api);
            }
            None => tracing::warn!("[api] is gone from the configuration; what was configured stays until the next start"),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts serving on an address.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(config: &Config, api: &ApiConfig, address: SocketAddr) -> anyhow::Result<Running> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("[api] listen = \"{address}\""))?;
    let address = listener.local_addr().unwrap_or(address);
    let shared = Api::new(config, api);
    let router = router(&shared, &api.cors_origins);
    tokio::spawn(shared.clone().measure());
    tokio::spawn(shared.follower.clone().run());
    tokio::spawn(warm::run(shared.clone(), router.clone()));
    tracing::info!(%address, "serving the read API");
    tokio::spawn(listener::serve(listener, router));
    Ok(Running { api: shared, address })
}

fn router(api: &Api, origins: &[String]) -> Router {
    let mut router = Router::new()
        .route("/openapi.json", get(openapi::document))
        .route("/api/read/{projection}", get(projections::read))
        .route("/api/changes/{projection}", get(changes::changes));
    if api.config().products.is_some() {
        router = router
            .route("/api/products", get(products::list))
            .route("/api/products/search", get(products::search))
            .route("/api/products/suggest", get(products::suggest))
            .route("/api/categories/{id}/products", get(products::of_category))
            .route("/api/brands/{brand}/products", get(products::of_brand));
    }
    router
        .fallback(|| async { Problem::not_found("there is nothing here; /openapi.json tells what there is").into_response() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed().into_response() })
        .layer(middleware::from_fn_with_state(api.clone(), answered))
        .layer(CompressionLayer::new())
        .layer(cors(origins, &api.config().rollout_header))
        .with_state(api.clone())
}

/// Without configured origins no header is sent, and browsers refuse.
fn cors(origins: &[String], rollout_header: &str) -> CorsLayer {
    let allowed: Vec<HeaderValue> =
        origins.iter().filter(|origin| *origin != "*").filter_map(|origin| origin.parse().ok()).collect();
    let origin = if origins.iter().any(|origin| origin == "*") { AllowOrigin::any() } else { AllowOrigin::list(allowed) };
    let mut sent = vec![header::IF_NONE_MATCH, HeaderName::from_static("lockstep-min-lsn")];
    sent.extend(rollout_header.parse::<HeaderName>());
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([axum::http::Method::GET])
        .allow_headers(sent)
        .expose_headers(respond::HEADERS.map(HeaderName::from_static))
}

/// Bounds every request's time, and measures it.
async fn answered(State(api): State<Api>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let config = api.config();
    let limit = config.request_timeout + config.read.min_lsn_wait;
    let response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(ReadError::TimedOut).into_response(),
    };
    let status = response.status().as_u16().to_string();
    metrics::counter!("lockstep_http_requests_total", "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!("lockstep_http_request_duration_seconds", "route" => route).record(began.elapsed().as_secs_f64());
    response
}

/// What decides whether a client takes part in a rollout.
fn sticky_key(config: &ApiConfig, headers: &HeaderMap, peer: Option<&ConnectInfo<SocketAddr>>) -> String {
    let header = headers.get(&config.rollout_header).and_then(|value| value.to_str().ok());
    header.map(str::to_owned).or_else(|| peer.map(|peer| peer.0.ip().to_string())).unwrap_or_default()
}

impl Api {
    /// Tells what changes without requests.
    async fn measure(self) {
        loop {
            metrics::gauge!("db_connection_usage").set(self.reader.usage());
            metrics::gauge!("cache_hit_ratio").set(self.ratio.tick());
            self.follower.measure();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
