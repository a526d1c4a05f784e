//! The feed of changes as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event as SentEvent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::follower::{Backlog, Event, Told};
use super::parameters::{Named, Parameters};
use super::problem::Problem;
use super::shared::Api;

/// Events that wait for a client's network. One that falls further behind reads the table again; an event may have a thousand keys, and
/// there may be many such clients.
const WAITING_MAX: usize = 2;

/// A comment goes out so often, so that proxies keep the connection and a client that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /api/changes/{projection}`; goes on after `Last-Event-ID` or `?since=`.
pub(super) async fn changes(
    State(api): State<Api>,
    Named(projection): Named,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut parameters = Parameters::of(&uri);
    let since: Option<i64> = parameters.parse("since", "the id of an event")?;
    parameters.done()?;
    let header = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let since = match header {
        Some(None) => return Err(Problem::bad("Last-Event-ID", "not the id of an event")),
        Some(Some(id)) => Some(id),
        None => since,
    };
    if !api.reader.models().iter().any(|model| model.name == projection) {
        return Err(Problem::not_found(format!("there is no projection {projection}")));
    }
    if api.follower.subscribe(&projection).is_none() {
        return Err(Problem::not_found(format!("{projection} has no feed ([feed] in the configuration)")));
    }
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(follow(api, projection, since, sender));
    let events = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Sends events until the client is gone, or the database cannot be read: then the client comes again by itself.
async fn follow(api: Api, projection: String, since: Option<i64>, sender: mpsc::Sender<SentEvent>) {
    // First the subscription, then the table: in this order nothing can slip in between.
    let Some(mut receiver) = api.follower.subscribe(&projection) else { return };
    // Who names no event begins here: beyond the newest, so to speak.
    let Ok(mut last) = begin(&api, &projection, since, &sender).await else { return };
    loop {
        let received = tokio::select! {
            received = receiver.recv() => received,
            () = sender.closed() => return,
        };
        match received {
            Ok(Told::Event(event)) if event.id > last => {
                last = event.id;
                if sender.send(sent(&event)).await.is_err() {
                    return;
                }
            }
            Ok(Told::Event(_)) => {}
            Ok(Told::Look) | Err(RecvError::Lagged(_)) => match begin(&api, &projection, Some(last), &sender).await {
                Ok(reached) => last = reached,
                Err(()) => return,
            },
            Err(RecvError::Closed) => return,
        }
    }
}

/// Sends what came after `since`, and returns where the client is then.
async fn begin(api: &Api, projection: &str, since: Option<i64>, sender: &mpsc::Sender<SentEvent>) -> Result<i64, ()> {
    // Who names no event begins at the end: nothing is beyond this one.
    let mut last = since.unwrap_or(i64::MAX);
    loop {
        let backlog = api.follower.backlog(projection, last).await.map_err(|error| {
            tracing::debug!(projection, error = format!("{error:#}"), "the feed's history");
        })?;
        match backlog {
            Backlog::Forgotten(newest) => {
                let name = if since.is_none() { "ready" } else { "reset" };
                let event = SentEvent::default().event(name).id(newest.to_string()).data("{}");
                sender.send(event).await.map_err(drop)?;
                return Ok(newest);
            }
            Backlog::Events(events) if events.is_empty() => return Ok(last),
            Backlog::Events(events) => {
                for event in events {
                    last = event.id;
                    sender.send(sent(&event)).await.map_err(drop)?;
                }
            }
        }
    }
}

fn sent(event: &Event) -> SentEvent {
    SentEvent::default().event("change").id(event.id.to_string()).data(&event.data)
}
