//! Answers that the HTTP library gives by itself, without a body: to a request that it refuses before anybody of ours sees it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Statuses of such answers, with what they mean.
const REFUSALS: [(&str, &str, &str); 3] = [
    ("400", "Bad request", "this is no request of HTTP/1.1"),
    ("414", "URI too long", "the request's line is too long: at most 65,534 bytes"),
    ("431", "Request header fields too large", "the request has too many headers, or too long ones"),
];

/// A stream on which such answers become problem+json (RFC 9457).
pub(crate) struct Explained<S> {
    stream: S,
    /// What is written in the place of an answer, and how much of it has been.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S> Explained<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, instead: None }
    }
}

/// What to say instead. Our own answers have a content type.
fn explained(answer: &[u8]) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(answer).ok()?.strip_prefix("HTTP/1.1 ")?;
    let (status, title, detail) = REFUSALS.iter().find(|(status, ..)| head.starts_with(status))?;
    let lower = head.to_ascii_lowercase();
    if lower.contains("content-type:") || !lower.contains("content-length: 0\r\n") {
        return None;
    }
    let body = format!(
        "{{\"success\":false,\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"detail\":\"{detail}\",\"error\":\"{detail}\"}}"
    );
    let length = body.len();
    Some(
        format!(
            "HTTP/1.1 {status} {title}\r\nconnection: close\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.instead.is_none() {
            this.instead = explained(bytes).map(|text| (text, 0));
        }
        let Some((text, written)) = &mut this.instead else { return Pin::new(&mut this.stream).poll_write(context, bytes) };
        while *written < text.len() {
            *written += ready!(Pin::new(&mut this.stream).poll_write(context, &text[*written..]))?;
        }
        this.instead = None;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Explained<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}
