//! The read API over HTTP: product endpoints, every projection with filters, and the feed of changes.
//!
//! ```text
//!   request ──► answered() (time-out, metrics) ──► products / projections / changes ──► lockstep_read::Reader
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
mod shared;
mod warm;

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use lockstep_config::{ApiConfig, Config};
use lockstep_read::ReadError;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::listener;
use problem::Problem;
use shared::Api;

/// A running API; dropping it does not end it.
pub struct Running {
    api: Api,
    address: SocketAddr,
}

impl Running {
    /// Takes another configuration.
    pub fn configure(&self, config: &Config) {
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
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts serving on an address.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(config: &Config, api: &ApiConfig, address: SocketAddr) -> anyhow::Result<Running> {
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
