//! The metrics listener: `/metrics`, `/healthz` (the process lives), `/readyz` (every projection is live), and the page.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use lockstep_capture::CaptureStatus;
use lockstep_refresh::GroupStatus;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::config::Config;
use crate::listener;
use crate::observed::Observed;
use crate::page::{self, Viewed};

/// Without it the histograms' memory grows with every observation.
const UPKEEP: Duration = Duration::from_secs(5);

/// What `/readyz` looks at; filled when running starts.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<RwLock<Option<Watched>>>);

struct Watched {
    groups: Vec<watch::Receiver<GroupStatus>>,
    capture: watch::Receiver<CaptureStatus>,
    /// Projections that cannot even be planned.
    broken: Vec<String>,
    /// Of a process that only reads: why it cannot.
    unreachable: Option<String>,
}

impl Health {
    /// Of a process that only reads; [`Self::reaches`] says whether it can.
    pub(crate) fn of_a_reader() -> Self {
        let (_, capture) = watch::channel(CaptureStatus::Streaming);
        Self(Arc::new(RwLock::new(Some(Watched { groups: Vec::new(), capture, broken: Vec::new(), unreachable: None }))))
    }

    /// Whether what is read can be reached, or why not.
    pub(crate) fn reaches(&self, problem: Option<String>) {
        if let Some(watched) = &mut *self.0.write().unwrap_or_else(PoisonError::into_inner) {
            watched.unreachable = problem;
        }
    }

    pub(crate) fn watch(
        &self,
        groups: Vec<watch::Receiver<GroupStatus>>,
        capture: watch::Receiver<CaptureStatus>,
        broken: Vec<String>,
    ) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Watched { groups, capture, broken, unreachable: None });
    }

    /// Why it is not ready; empty if it is.
    fn obstacles(&self) -> Vec<String> {
        let guard = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(watched) = &*guard else { return vec!["starting".to_owned()] };
        let mut obstacles = match &*watched.capture.borrow() {
            CaptureStatus::Streaming => Vec::new(),
            CaptureStatus::Starting => vec!["the stream is starting".to_owned()],
            CaptureStatus::Reconnecting(_) => vec!["the stream is reconnecting".to_owned()],
            CaptureStatus::Ended(_) => vec!["the stream has ended".to_owned()],
        };
        obstacles.extend(watched.unreachable.as_ref().map(|_| "the database cannot be reached".to_owned()));
        obstacles.extend(watched.broken.iter().map(|name| format!("{name} is faulted")));
        for group in &watched.groups {
            let status = group.borrow();
            let not_live =
                status.projections.iter().filter(|projection| !projection.in_making && projection.state.name() != "live");
            obstacles.extend(not_live.map(|projection| format!("{} is {}", projection.name, projection.state.name())));
        }
        obstacles
    }
}

#[derive(Clone)]
struct Served {
    metrics: PrometheusHandle,
    health: Health,
}

/// Starts serving, if an address is configured; returns it. The default address being taken is not an error.
pub(crate) async fn serve(
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
    let obstacles = served.health.obstacles();
    if obstacles.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", obstacles.join("\n")))
    }
}
