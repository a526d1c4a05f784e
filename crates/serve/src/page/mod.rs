//! A page to look at, on the metrics listener: made by hand, works without internet, live by server-sent events.

mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use lockstep_observe::Observed;
use serde_json::json;

pub(crate) use status::Viewed;

/// Nothing of the page comes from elsewhere, and nothing in it runs but its own script.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'";

/// How often a page is told.
const TICK: Duration = Duration::from_secs(1);

/// Content types and contents of what the page is made of.
const ASSETS: [(&str, &str, &str); 4] = [
    ("page.css", "text/css; charset=utf-8", include_str!("assets/page.css")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    ("uPlot.min.css", "text/css; charset=utf-8", include_str!("assets/uPlot.min.css")),
    ("uPlot.min.js", "text/javascript; charset=utf-8", include_str!("assets/uPlot.min.js")),
];

/// The page's routes.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(viewed: Arc<Viewed>) -> Router<S> {
    Router::new()
        .route("/", get(index))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/assets/{name}", get(asset))
        .route("/status.json", get(now))
        .route("/history.json", get(history))
        .route("/events", get(events))
        .route("/plans/{name}", get(plan))
        .with_state(viewed)
}

fn text(content_type: &'static str, body: impl Into<String>) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body.into()).into_response()
}

async fn index() -> Response {
    text("text/html; charset=utf-8", include_str!("assets/index.html"))
}

async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, content_type, body)) => text(content_type, *body),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn now(State(viewed): State<Arc<Viewed>>) -> Response {
    text("application/json", viewed.status().await.to_string())
}

async fn history(State(viewed): State<Arc<Viewed>>) -> Response {
    text("application/json", viewed.observed.history().to_string())
}

async fn plan(State(viewed): State<Arc<Viewed>>, Path(name): Path<String>) -> Response {
    match viewed.observed.plan(&name) {
        Some(plan) => text("application/json", plan.to_string()),
        None => (StatusCode::NOT_FOUND, axum::Json(json!({ "error": "there is no plan" }))).into_response(),
    }
}

/// One event at once, then one a second. All pages share what was looked up.
async fn events(State(viewed): State<Arc<Viewed>>) -> Response {
    let events = stream::unfold((viewed, true), |(viewed, first)| async move {
        if !first {
            tokio::time::sleep(TICK).await;
        }
        let event = Event::default().event("status").data(viewed.status().await.to_string());
        Some((Ok::<_, Infallible>(event), (viewed, false)))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

impl Viewed {
    /// What is seen of a configuration.
    pub(crate) fn new(config: &lockstep_config::Config, observed: Arc<Observed>) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), observed, looked_up: tokio::sync::Mutex::default() })
    }
}
