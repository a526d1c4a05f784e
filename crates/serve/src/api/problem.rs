//! Errors as problem+json (RFC 9457), without anything that concerns the server alone.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockstep_read::ReadError;
use serde::Serialize;

/// What went wrong, for a client.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// As clients of the product endpoints expect it.
    success: bool,
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The same for clients that look for it under this name.
    error: String,
    /// The parameter that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            success: false,
            kind: "about:blank",
            title,
            status: status.as_u16(),
            error: detail.clone(),
            detail,
            parameter: None,
            retry_after_s: None,
        }
    }

    /// A request that is wrong in this parameter.
    pub(super) fn bad(parameter: &str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(parameter.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, "Bad request", detail) }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", "this API only reads: GET and HEAD")
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::BadRequest { parameter, detail } => Self::bad(&parameter, detail),
            ReadError::NoSuchProjection(_) => Self::not_found(detail),
            ReadError::NotYet => {
                Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Not contained yet", detail) }
            }
            ReadError::SetAside => {
                Self { retry_after_s: Some(30), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Set aside", detail) }
            }
            ReadError::Unavailable => {
                Self { retry_after_s: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable", detail) }
            }
            ReadError::TimedOut => {
                Self { retry_after_s: Some(5), ..Self::new(StatusCode::GATEWAY_TIMEOUT, "Gateway time-out", detail) }
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
