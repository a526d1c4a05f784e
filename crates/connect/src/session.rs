//! SQL sessions: a tokio-postgres client whose settings are pinned and whose connection task ends with it.

use std::future::{Ready, ready};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding as BindingMode, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Connection, Notification, SimpleQueryMessage};

use crate::endpoint::{Endpoint, ServerIdentity};
use crate::error::{ConnectError, ErrorClass, classify, refused_by_pooler};
use crate::establish::{LoggedIn, Login, establish};
use crate::hosts::Candidate;
use crate::pinned::{ReadBack, startup_options};
use crate::settings::{Binding, Settings};
use crate::text::SQL_ASCII;
use crate::transport::{Stream, Transport};

/// Which server and which history a session is with. The WAL file's name begins with the timeline: the control file tells that of the
/// last checkpoint, which a promotion does not wait for.
const IDENTITY: &str = "SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
         ELSE pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END";

/// An open SQL session. Dropping it closes the connection.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    origin: Box<Origin>,
}

/// What is known of a session's beginning.
struct Origin {
    server_encoding: String,
    settings_of_host: Settings,
    settings_of_the_role: Vec<String>,
}

impl Session {
    /// Opens a session with [`PINNED_SETTINGS`](crate::PINNED_SETTINGS), read back.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open(settings: &Settings, application_name: &str) -> Result<Self, ConnectError> {
        Self::open_listening(settings, application_name, None).await
    }

    /// The same for carrying texts as bytes ([`Text`](crate::Text)): where the database has no encoding, nothing is looked at on the way.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open_carrying(settings: &Settings, application_name: &str) -> Result<Self, ConnectError> {
        let session = Self::open(settings, application_name).await?;
        if session.server_encoding() == SQL_ASCII {
            let carrying = session.batch_execute(&format!("SET client_encoding = {SQL_ASCII}")).await;
            carrying.map_err(|cause| explain(session.endpoint().to_string(), cause))?;
        }
        Ok(session)
    }

    /// [`Session::open`]; what channels that are listened to say goes to `notifications`, which closes with the session.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open_listening(
        settings: &Settings,
        application_name: &str,
        notifications: Option<UnboundedSender<Notification>>,
    ) -> Result<Self, ConnectError> {
        let login = SqlLogin { settings, application_name, notifications };
        // On the heap: TLS and authentication make it large, and it is part of every caller's own.
        let (session, _) = Box::pin(establish(settings, &login)).await?;
        if let Some(expected) = settings.expected() {
            session.expect(expected).await?;
        }
        Ok(session)
    }

    /// The host that it is with, of those that the settings name.
    pub fn endpoint(&self) -> Endpoint {
        self.origin.settings_of_host.endpoint()
    }

    /// The encoding of its database.
    pub fn server_encoding(&self) -> &str {
        &self.origin.server_encoding
    }

    /// The settings for another connection to the same host.
    pub fn settings_of_host(&self) -> &Settings {
        &self.origin.settings_of_host
    }

    /// Settings that the role has for itself alone, while what the database has for others is not to be seen: results that depend on
    /// them may differ from what others see.
    pub fn settings_of_the_role(&self) -> &[String] {
        &self.origin.settings_of_the_role
    }

    /// Who the server is; the timeline is `None` for a standby.
    ///
    /// # Errors
    /// The statement failed.
    pub async fn identity(&self) -> Result<(String, Option<u32>), tokio_postgres::Error> {
        let row = first_row(self.simple_query(IDENTITY).await?);
        let field = |n: usize| row.get(n).cloned().flatten();
        Ok((field(0).unwrap_or_default(), field(1).and_then(|timeline| u32::from_str_radix(&timeline, 16).ok())))
    }

    async fn expect(&self, expected: &ServerIdentity) -> Result<(), ConnectError> {
        let endpoint = self.endpoint().to_string();
        let (system_identifier, timeline) = self.identity().await.map_err(|cause| explain(endpoint.clone(), cause))?;
        if system_identifier == expected.system_identifier && timeline == Some(expected.timeline) {
            return Ok(());
        }
        let timeline = timeline.map_or_else(|| "in recovery".to_owned(), |timeline| format!("on timeline {timeline}"));
        let found = format!("system {system_identifier} {timeline}");
        Err(ConnectError::AnotherServer {
            endpoint,
            found,
            expected: format!("system {} on timeline {}", expected.system_identifier, expected.timeline),
        })
    }

    /// Reads the settings back; what the role has for itself gives way to what the database has.
    async fn settle(&self, read_back: &ReadBack<'_>) -> Result<Vec<String>, ConnectError> {
        let refused = |cause| explain(read_back.endpoint().to_owned(), cause);
        let row = first_row(self.simple_query(&read_back.statement()).await.map_err(refused)?);
        let settled = read_back.settled(&row)?;
        if let Some(then) = &settled.then {
            self.simple_query(then).await.map_err(refused)?;
        }
        Ok(settled.of_the_role)
    }
}

fn first_row(messages: Vec<SimpleQueryMessage>) -> Vec<Option<String>> {
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.map_or_else(Vec::new, |row| (0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect())
}

struct SqlLogin<'a> {
    settings: &'a Settings,
    application_name: &'a str,
    notifications: Option<UnboundedSender<Notification>>,
}

impl Login for SqlLogin<'_> {
    type Opened = Session;
    type Error = ConnectError;

    async fn login(&self, transport: Transport, to: &Candidate) -> Result<LoggedIn<Session>, ConnectError> {
        let endpoint = to.endpoint();
        let Transport { stream, server_end_point } = transport;
        let config = config(to, self.application_name, matches!(stream, Stream::Tls(_)));
        let (client, connection) = config
            .connect_raw(stream, Negotiated(server_end_point))
            .await
            .map_err(|cause| explain(endpoint.to_string(), cause))?;
        let in_hot_standby = connection.parameter("in_hot_standby") == Some("on");
        let server_encoding = connection.parameter("server_encoding").unwrap_or_default().to_owned();
        let options = to.resolved.options.as_str();
        let read_back = ReadBack::new(endpoint.to_string(), connection.parameter("server_version"), options);
        let connection = tokio::spawn(drive(connection, self.notifications.clone()));
        let settings_of_host = self.settings.narrowed_to(&to.host);
        let origin = Origin { server_encoding, settings_of_host, settings_of_the_role: Vec::new() };
        let mut session = Session { client, connection, origin: Box::new(origin) };
        session.origin.settings_of_the_role = session.settle(&read_back).await?;
        Ok(LoggedIn { opened: session, in_hot_standby })
    }

    fn class(error: &ConnectError) -> ErrorClass {
        error.class()
    }

    fn tries_next(error: &ConnectError) -> bool {
        error.tries_next()
    }
}

fn config(to: &Candidate, application_name: &str, is_tls: bool) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.user(to.user()).dbname(to.database()).application_name(application_name);
    config.options(startup_options(Some(&to.resolved.options)));
    if let Some(password) = to.password() {
        config.password(password);
    }
    // TLS has been negotiated; tokio-postgres has to know for the binding.
    if is_tls {
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(SslMode::Disable);
    }
    config.channel_binding(match to.binding() {
        Binding::Disable => BindingMode::Disable,
        Binding::Prefer => BindingMode::Prefer,
        Binding::Require => BindingMode::Require,
    });
    config
}

/// Drives a connection until it ends. Who does not want the notifications any more has dropped their other end.
async fn drive(mut connection: Connection<Stream, Bound>, notifications: Option<UnboundedSender<Notification>>) {
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                drop(notifications.as_ref().map(|wanted| wanted.send(notification)));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = %crate::describe(&error), "SQL connection ended");
                break;
            }
            None => break,
        }
    }
}

fn explain(endpoint: String, cause: tokio_postgres::Error) -> ConnectError {
    if let Some(error) = cause.as_db_error() {
        return match refused_by_pooler(error.code().code(), error.message()) {
            Some(differing) => ConnectError::Pooled { endpoint, differing },
            None => ConnectError::Refused { endpoint, cause },
        };
    }
    let io_kind = std::error::Error::source(&cause)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .map(|error| (error.kind(), error.to_string()));
    match io_kind {
        Some((kind, text)) => ConnectError::Unreachable { endpoint, cause: std::io::Error::new(kind, text) },
        // What cannot be mended by another attempt: no password is given, or a method that is not known.
        None if classify(&cause) == ErrorClass::Transient && !cause.is_closed() => {
            ConnectError::Authentication { endpoint, cause: crate::describe(&cause) }
        }
        None => ConnectError::Refused { endpoint, cause },
    }
}

/// Says that there is nothing left to negotiate.
struct Negotiated(Option<Vec<u8>>);

impl TlsConnect<Stream> for Negotiated {
    type Stream = Bound;
    type Error = std::io::Error;
    type Future = Ready<Result<Bound, std::io::Error>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(Bound { stream, server_end_point: self.0 }))
    }
}

/// A TLS stream with what authentication is bound to.
struct Bound {
    stream: Stream,
    server_end_point: Option<Vec<u8>>,
}

impl TlsStream for Bound {
    fn channel_binding(&self) -> ChannelBinding {
        self.server_end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Bound {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Bound {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
