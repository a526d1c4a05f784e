//! Requests that are made whenever a projection has changed or its view was refreshed, so that what they read is in memory when clients
//! ask.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use tokio::sync::broadcast::error::RecvError;
use tower::ServiceExt as _;

use super::shared::Api;

/// Changes that come close together are answered by one request.
const GATHER: Duration = Duration::from_millis(250);

/// Runs forever.
pub(super) async fn run(api: Api, router: Router) {
    let mut changed = api.follower.changed();
    loop {
        let mut names = BTreeSet::new();
        match changed.recv().await {
            Ok(name) => drop(names.insert(name)),
            // Too many to remember: all of them, then.
            Err(RecvError::Lagged(_)) => names.extend(api.config().warm.iter().map(|warm| warm.projection.clone())),
            Err(RecvError::Closed) => return,
        }
        let config = api.config();
        if config.warm.is_empty() {
            continue;
        }
        tokio::time::sleep(GATHER).await;
        while let Ok(name) = changed.try_recv() {
            names.insert(name);
        }
        for warm in config.warm.iter().filter(|warm| names.contains(&warm.projection)) {
            let Ok(request) = Request::get(&warm.path).body(Body::empty()) else { continue };
            let Ok(response) = router.clone().oneshot(request).await;
            let outcome = if response.status().is_success() { "success" } else { "error" };
            metrics::counter!("lockstep_warm_requests_total", "projection" => warm.projection.clone(), "outcome" => outcome)
                .increment(1);
            if !response.status().is_success() {
                tracing::warn!(path = warm.path, status = response.status().as_u16(), "a warming request failed");
            }
        }
    }
}
