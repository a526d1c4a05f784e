//! The metrics listener: `/metrics`, `/healthz` (the process lives), `/readyz` (every projection is live), and the page.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use lockstep_config::Config;
use lockstep_observe::Health;
use lockstep_observe::Observed;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::listener;
use crate::page::{self, Viewed};

/// Without it the histograms' memory grows with every observation.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Served {
    metrics: PrometheusHandle,
    health: Health,
}

/// Starts serving, if an address is configured; returns it. The default address being taken is not an error.
///
/// # Errors
/// A configured address cannot be listened on.
pub async fn serve(
    config: &Config,
    metrics: PrometheusHandle,
    health: Health,
    observed: Option<Arc<Observed>>,
) -> anyhow::Result<Option<SocketAddr>> {
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    let Some(listen) = config.metrics else { return Ok(None) };
    let listener = match tokio::net::TcpListener::bind(listen.address).await {
        Ok(listener) => listener,
        Err(error) if !listen.configured => {
            tracing::warn!(address = %listen.address, error = %error, "metrics are not served");
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("[metrics] listen = \"{}\"", listen.address)),
    };
    let address = listener.local_addr().unwrap_or(listen.address);
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Served { metrics, health });
    let router = match observed {
        Some(observed) => router.merge(page::routes(Viewed::new(config, observed))),
        None => router,
    };
    tokio::spawn(listener::serve(listener, router));
    Ok(Some(address))
}

async fn render(State(served): State<Served>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], served.metrics.render())
}

async fn ready(State(served): State<Served>) -> impl IntoResponse {
    let obstacles = served.health.verdict().obstacles;
    if obstacles.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", obstacles.join("\n")))
    }
}
