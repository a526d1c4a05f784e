//! SQL sessions: a tokio-postgres client whose settings are pinned and whose connection task ends with it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::ConnectError;
use crate::settings::Settings;
use crate::tls;

/// Settings fixed for every session, SQL and replication alike, against whatever role or database defaults say.
///
/// The first five decide how values print (keys travel as text and are compared as text); the others keep a default set for
/// the application's sessions (time-outs, read-only, JIT) from breaking or slowing the projector. `row_security = off` turns a
/// policy that would silently hide rows into an error.
pub const PINNED_SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "ISO,YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("row_security", "off"),
    ("jit", "off"),
    ("client_min_messages", "warning"),
];

/// A connection whose other end vanished is noticed within about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(1);

/// An open SQL session. Dropping it closes the connection.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Session {
    /// Opens a session with [`PINNED_SETTINGS`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open(settings: &Settings, application_name: &str) -> Result<Self, ConnectError> {
        Self::open_listening(settings, application_name, None).await
    }

    /// The same; what channels that are listened to say goes to `notifications`, which closes with the session.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open_listening(
        settings: &Settings,
        application_name: &str,
        notifications: Option<UnboundedSender<Notification>>,
    ) -> Result<Self, ConnectError> {
        let endpoint = settings.endpoint().to_string();
        let tls_config = tls::client_config(settings.tls_mode, settings.root_certificate.as_ref())
            .map_err(|cause| ConnectError::Tls { endpoint: endpoint.clone(), cause })?;
        let mut config = settings.config.clone();
        config.application_name(application_name);
        config.options(startup_options(config.get_options()));
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(KEEPALIVE_RETRIES);
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
        // tokio-postgres bounds the TCP connection alone; a frozen server accepts it and then says nothing.
        let connecting = config.connect(MakeRustlsConnect::new(tls_config));
        let (client, mut connection) = tokio::time::timeout(settings.connect_timeout(), connecting)
            .await
            .map_err(|_| ConnectError::Unreachable { endpoint: endpoint.clone(), cause: std::io::ErrorKind::TimedOut.into() })?
            .map_err(|cause| explain(endpoint.clone(), cause))?;
        let connection = tokio::spawn(async move {
            loop {
                match std::future::poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        // Who does not want them any more has dropped the other end.
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
        });
        Ok(Self { client, connection })
    }
}

/// `-c name=value …` for the startup message, after what the user gave (a later setting wins).
pub(crate) fn startup_options(given: Option<&str>) -> String {
    let mut options = given.unwrap_or_default().to_owned();
    for (name, value) in PINNED_SETTINGS {
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str("-c ");
        options.push_str(name);
        options.push('=');
        options.push_str(value);
    }
    options
}

fn explain(endpoint: String, cause: tokio_postgres::Error) -> ConnectError {
    if cause.as_db_error().is_some() {
        return ConnectError::Refused { endpoint, cause };
    }
    let io_kind = std::error::Error::source(&cause)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .map(|error| (error.kind(), error.to_string()));
    match io_kind {
        Some((kind, text)) if kind != std::io::ErrorKind::InvalidData => {
            ConnectError::Unreachable { endpoint, cause: std::io::Error::new(kind, text) }
        }
        Some((_, text)) => ConnectError::Tls { endpoint, cause: text },
        None => ConnectError::Refused { endpoint, cause },
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

impl Settings {
    /// The value of the startup message's `options` parameter.
    pub fn startup_options(&self) -> String {
        startup_options(self.config.get_options())
    }
}
