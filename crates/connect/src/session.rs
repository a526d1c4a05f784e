//! SQL sessions: a tokio-postgres client whose settings are pinned and whose connection task ends with it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Notification, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{ConnectError, refused_by_pooler};
use crate::pinned::{ReadBack, startup_options};
use crate::settings::Settings;
use crate::tls;

/// A connection whose other end vanished is noticed within about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(1);

/// An open SQL session. Dropping it closes the connection.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    of_the_role: Vec<String>,
}

impl Session {
    /// Opens a session with [`PINNED_SETTINGS`](crate::PINNED_SETTINGS), read back.
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
        // On the heap: TLS and authentication make it large, and it is part of every caller's own.
        Box::pin(Self::establish(settings, application_name, notifications)).await
    }

    async fn establish(
        settings: &Settings,
        application_name: &str,
        notifications: Option<UnboundedSender<Notification>>,
    ) -> Result<Self, ConnectError> {
        let endpoint = settings.endpoint().to_string();
        let tls_config = tls::client_config(settings.tls_mode, settings.root_certificate.as_ref())
            .map_err(|cause| ConnectError::Tls { endpoint: endpoint.clone(), cause })?;
        let mut config = settings.config.clone();
        config.application_name(application_name);
        let given_options = config.get_options().unwrap_or_default().to_owned();
        config.options(startup_options(Some(&given_options)));
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(KEEPALIVE_RETRIES);
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
        // tokio-postgres bounds the TCP connection alone; a frozen server accepts it and then says nothing.
        let connecting = config.connect(MakeRustlsConnect::new(tls_config));
        let (client, mut connection) = tokio::time::timeout(settings.connect_timeout(), connecting)
            .await
            .map_err(|_| ConnectError::Unreachable { endpoint: endpoint.clone(), cause: std::io::ErrorKind::TimedOut.into() })?
            .map_err(|cause| explain(endpoint.clone(), cause))?;
        let read_back = ReadBack::new(endpoint.clone(), connection.parameter("server_version"), &given_options);
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
        let mut session = Self { client, connection, of_the_role: Vec::new() };
        session.of_the_role =
            tokio::time::timeout(settings.connect_timeout(), session.settle(&read_back)).await.map_err(|_| {
                ConnectError::Unreachable { endpoint: endpoint.clone(), cause: std::io::ErrorKind::TimedOut.into() }
            })??;
        Ok(session)
    }

    /// Reads the settings back; what the role has for itself gives way to what the database has.
    async fn settle(&self, read_back: &ReadBack<'_>) -> Result<Vec<String>, ConnectError> {
        let refused = |cause| explain(read_back.endpoint().to_owned(), cause);
        let row =
            self.simple_query(&read_back.statement()).await.map_err(refused)?.into_iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect::<Vec<_>>()),
                _ => None,
            });
        let settled = read_back.settled(&row.unwrap_or_default())?;
        if let Some(then) = &settled.then {
            self.simple_query(then).await.map_err(refused)?;
        }
        Ok(settled.of_the_role)
    }

    /// Settings that the role has for itself alone, while what the database has for others is not to be seen: results that depend on
    /// them may differ from what others see.
    pub fn settings_of_the_role(&self) -> &[String] {
        &self.of_the_role
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
