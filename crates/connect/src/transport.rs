//! A raw byte stream to a server, with TLS negotiated: what the replication connection speaks on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::error::ConnectError;
use crate::settings::{Endpoint, Settings};
use crate::tls::{self, TlsMode};

/// The `SSLRequest` message: length 8, code 80877103 (PostgreSQL's protocol documentation, message formats).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A connected byte stream.
pub enum Stream {
    /// TCP without TLS.
    Tcp(TcpStream),
    /// TCP with TLS.
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// A Unix-domain socket.
    Unix(UnixStream),
}

/// A stream ready for the startup message.
pub struct Transport {
    /// The bytes.
    pub stream: Stream,
    /// The `tls-server-end-point` channel binding data, where TLS gives one.
    pub server_end_point: Option<Vec<u8>>,
}

impl Transport {
    /// Connects and negotiates TLS as the settings' `sslmode` asks.
    ///
    /// # Errors
    /// The server is unreachable within the connect time-out, or TLS is required and fails.
    pub async fn open(settings: &Settings) -> Result<Self, ConnectError> {
        let endpoint = settings.endpoint();
        let unreachable = |cause| ConnectError::Unreachable { endpoint: endpoint.to_string(), cause };
        let connecting = async {
            match &endpoint {
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
                Endpoint::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                }
            }
        };
        let stream = tokio::time::timeout(settings.connect_timeout(), connecting)
            .await
            .map_err(|_| unreachable(std::io::ErrorKind::TimedOut.into()))?
            .map_err(unreachable)?;
        match (stream, settings.tls_mode()) {
            (Stream::Tcp(stream), mode) if mode != TlsMode::Disable => {
                tokio::time::timeout(settings.connect_timeout(), negotiate(stream, settings)).await.map_err(|_| {
                    ConnectError::Unreachable { endpoint: endpoint.to_string(), cause: std::io::ErrorKind::TimedOut.into() }
                })?
            }
            (stream, _) => Ok(Self { stream, server_end_point: None }),
        }
    }
}

async fn negotiate(mut stream: TcpStream, settings: &Settings) -> Result<Transport, ConnectError> {
    let endpoint = settings.endpoint().to_string();
    let unreachable = |cause| ConnectError::Unreachable { endpoint: endpoint.clone(), cause };
    let failed = |cause: String| ConnectError::Tls { endpoint: endpoint.clone(), cause };
    stream.write_all(&SSL_REQUEST).await.map_err(unreachable)?;
    let answer = stream.read_u8().await.map_err(unreachable)?;
    if answer != b'S' {
        return match settings.tls_mode() {
            TlsMode::Disable | TlsMode::Prefer => Ok(Transport { stream: Stream::Tcp(stream), server_end_point: None }),
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {
                Err(failed("the server does not offer TLS, and sslmode requires it".to_owned()))
            }
        };
    }
    let config = tls::client_config(settings.tls_mode(), settings.root_certificate.as_ref()).map_err(failed)?;
    let Endpoint::Tcp(host, _) = settings.endpoint() else {
        return Err(failed("TLS over a Unix-domain socket".to_owned()));
    };
    let name = ServerName::try_from(host).map_err(|error| failed(error.to_string()))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        // rustls reports its own refusals as invalid data; anything else is the connection's end.
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => failed(error.to_string()),
            _ => unreachable(error),
        })?;
    let server_end_point =
        stream.get_ref().1.peer_certificates().and_then(|certificates| certificates.first()).and_then(tls::server_end_point);
    Ok(Transport { stream: Stream::Tls(Box::new(stream)), server_end_point })
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, data),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
