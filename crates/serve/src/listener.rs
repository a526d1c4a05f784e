//! Serving HTTP on an address, with a bound on how long a client may take to say what it wants.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use crate::refusal::Explained;

/// A client that sends nothing for so long, or a request's head so slowly, is let go; one that asked before, too.
const HEAD_MAX: Duration = Duration::from_mins(1);

/// Mostly there are too many open files; they become fewer.
const AFTER_A_FAILED_ACCEPT: Duration = Duration::from_secs(1);

/// Serves forever. Each request carries its client's address as [`ConnectInfo`].
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(connection(stream, peer, router.clone(), HEAD_MAX))),
            // That client's own affair.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::warn!(error = %error, "a client could not be let in");
                tokio::time::sleep(AFTER_A_FAILED_ACCEPT).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, head_max: Duration) {
    // Answers are written whole: waiting for more to send would only delay them.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(head_max);
    if let Err(error) = protocol.serve_connection(TokioIo::new(Explained::new(stream)), service).await {
        tracing::debug!(error = %error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_request_that_is_refused_unread_is_told_why() -> std::io::Result<()> {
        for (request, status) in [
            (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000)), "414"),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(200)), "431"),
            ("GET\r\n\r\n".to_owned(), "400"),
        ] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let mut client = TcpStream::connect(listener.local_addr()?).await?;
            let (stream, peer) = listener.accept().await?;
            let serving = tokio::spawn(connection(stream, peer, Router::new(), Duration::from_secs(10)));
            client.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await?;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            assert!(head.contains("content-type: application/problem+json"), "{answer}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
            assert!(body.contains(&format!("\"status\":{status}")), "{answer}");
            serving.await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_client_that_never_says_what_it_wants_is_let_go() -> std::io::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        let (stream, peer) = listener.accept().await?;
        let serving = tokio::spawn(connection(stream, peer, Router::new(), Duration::from_millis(50)));
        client.write_all(b"GET / HTTP/1.1\r\nHost: ").await?;
        assert_eq!(client.read(&mut [0; 100]).await?, 0);
        Ok(serving.await?)
    }
}
