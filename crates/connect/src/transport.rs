//! A raw byte stream to a server, with TLS negotiated: what connections of every kind speak on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::certificates::server_end_point;
use crate::error::ConnectError;
use crate::host::Address;
use crate::hosts::Candidate;
use crate::settings::{Keepalive, Settings};
use crate::tls::TlsMode;

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
    /// Connects and negotiates TLS as `sslmode` asks. Over a Unix-domain socket there is none, whatever the mode, as in libpq.
    ///
    /// # Errors
    /// The server cannot be reached, or TLS is required and fails.
    pub async fn open(to: &Candidate) -> Result<Self, ConnectError> {
        let mode = to.resolved.tls.mode;
        let opened = match &to.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|cause| unreachable(to, cause))?;
                check_peer(&stream, to)?;
                return Ok(Self { stream: Stream::Unix(stream), server_end_point: None });
            }
            Address::Tcp(_) if mode == TlsMode::Disable => Err(None),
            Address::Tcp(_) => negotiate(tcp(to).await?, to).await.map_err(Some),
        };
        match opened {
            Ok(transport) => Ok(transport),
            // libpq's `prefer`: what cannot be had with TLS is tried without.
            Err(None | Some(ConnectError::Tls { .. })) if matches!(mode, TlsMode::Disable | TlsMode::Prefer) => {
                Ok(Self { stream: Stream::Tcp(tcp(to).await?), server_end_point: None })
            }
            Err(Some(error)) => Err(error),
            Err(None) => Err(unreachable(to, std::io::ErrorKind::Unsupported.into())),
        }
    }

    /// The same for settings of one host, without logging in.
    ///
    /// # Errors
    /// As [`Transport::open`].
    pub async fn to_first_host(settings: &Settings) -> Result<Self, ConnectError> {
        let resolved = Arc::new(settings.fresh().map_err(ConnectError::Settings)?);
        let mut last = None;
        for candidate in crate::hosts::candidates(&resolved, &resolved.hosts[0]).await? {
            match Self::open(&candidate).await {
                Ok(transport) => return Ok(transport),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(ConnectError::NoHost { attempts: Vec::new(), definite: false }))
    }
}

fn unreachable(to: &Candidate, cause: std::io::Error) -> ConnectError {
    ConnectError::Unreachable { endpoint: to.endpoint().to_string(), cause }
}

async fn tcp(to: &Candidate) -> Result<TcpStream, ConnectError> {
    let Address::Tcp(address) = &to.address else {
        return Err(unreachable(to, std::io::ErrorKind::Unsupported.into()));
    };
    let stream = TcpStream::connect(address).await.map_err(|cause| unreachable(to, cause))?;
    stream.set_nodelay(true).map_err(|cause| unreachable(to, cause))?;
    keep_alive(&stream, &to.resolved.keepalive).map_err(|cause| unreachable(to, cause))?;
    Ok(stream)
}

fn keep_alive(stream: &TcpStream, keepalive: &Keepalive) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    if keepalive.enabled {
        let times = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval).with_retries(keepalive.count);
        socket.set_tcp_keepalive(&times)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(keepalive.unacknowledged_max))?;
    Ok(())
}

/// libpq's `requirepeer`: the server's process must be this user's.
fn check_peer(stream: &UnixStream, to: &Candidate) -> Result<(), ConnectError> {
    let Some(required) = &to.resolved.required_peer else { return Ok(()) };
    let user = stream.peer_cred().map_err(|cause| unreachable(to, cause))?.uid();
    let name = nix::unistd::User::from_uid(user.into()).ok().flatten().map(|user| user.name);
    if name.as_ref() == Some(required) {
        return Ok(());
    }
    let cause = format!("requirepeer is {required}, and the server runs as {}", name.unwrap_or_else(|| user.to_string()));
    Err(ConnectError::Tls { endpoint: to.endpoint().to_string(), cause })
}

async fn negotiate(mut stream: TcpStream, to: &Candidate) -> Result<Transport, ConnectError> {
    let tls = &to.resolved.tls;
    let failed = |cause: String| ConnectError::Tls { endpoint: to.endpoint().to_string(), cause };
    if !tls.direct {
        stream.write_all(&SSL_REQUEST).await.map_err(|cause| unreachable(to, cause))?;
        match stream.read_u8().await.map_err(|cause| unreachable(to, cause))? {
            b'S' => {}
            // An error message: the server has no connection to give.
            b'E' => return Err(unreachable(to, std::io::ErrorKind::ConnectionRefused.into())),
            _ if tls.mode == TlsMode::Prefer => return Ok(Transport { stream: Stream::Tcp(stream), server_end_point: None }),
            _ => return Err(failed(format!("the server does not offer TLS, and sslmode={} insists on it", tls.mode))),
        }
    }
    let config = tls.client_config().map_err(failed)?;
    let name = ServerName::try_from(to.host.name.clone()).map_err(|error| failed(error.to_string()))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        // rustls reports its own refusals as invalid data; anything else is the connection's end.
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => failed(error.to_string()),
            _ => unreachable(to, error),
        })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|certificates| certificates.first());
    let server_end_point = certificate.and_then(server_end_point);
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
