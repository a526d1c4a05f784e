//! Answers: bodies that are put together from what PostgreSQL printed, and headers that tell where they come from.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use lockstep_read::Answer;

use super::shared::Api;

/// The headers of an answer, for scripts of other sites.
pub(super) const HEADERS: [&str; 4] = ["etag", "lockstep-source", "lockstep-staleness", "lockstep-lsn"];

/// What a client has, if it says so.
pub(super) fn known(headers: &HeaderMap) -> Option<String> {
    headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// What distinguishes an answer from others of the same version.
pub(super) fn identity(uri: &Uri) -> String {
    uri.path_and_query().map(ToString::to_string).unwrap_or_default()
}

/// `[row,row]`: the rows are JSON already.
pub(super) fn array(rows: &[String]) -> String {
    format!("[{}]", rows.join(","))
}

/// `,"facets":{…}`, or nothing.
pub(super) fn facets(answer: &Answer) -> String {
    if answer.facets.is_empty() {
        return String::new();
    }
    let one = |(name, json): &(String, String)| format!("{}:{json}", serde_json::Value::from(name.as_str()));
    format!(",\"facets\":{{{}}}", answer.facets.iter().map(one).collect::<Vec<_>>().join(","))
}

/// The answer with its headers; 304 if the client has it.
pub(super) fn respond(api: &Api, answer: &Answer, body: String) -> Response {
    api.ratio.note(answer.not_modified);
    let status = if answer.not_modified { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut response = Response::new(if answer.not_modified { Body::empty() } else { Body::from(body) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    if !answer.not_modified {
        set("content-type", "application/json".to_owned());
    }
    // Whoever keeps it asks again: only the tag tells whether it is still true.
    set("cache-control", "no-cache".to_owned());
    set("vary", "Accept-Encoding".to_owned());
    if !answer.version.tag.is_empty() {
        set("etag", answer.version.tag.clone());
    }
    if let Some(source) = answer.source {
        set("lockstep-source", source.name().to_owned());
    }
    if let Some(seconds) = answer.version.staleness_seconds {
        set("lockstep-staleness", format!("{seconds:.3}"));
    }
    if let Some(lsn) = &answer.version.lsn {
        set("lockstep-lsn", lsn.clone());
    }
    response
}
