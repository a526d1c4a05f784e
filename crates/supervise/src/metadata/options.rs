//! The one place where sqlx gets a connection: over our own.
//!
//! What leads to a server (hosts, TLS, certificates, time-outs) has one implementation, in `lockstep-connect`. sqlx speaks SQL through a
//! Unix-domain socket that only this process can open, and that is connected with a transport that is open already.

use std::path::Path;
use std::str::FromStr as _;

use anyhow::Context as _;
use lockstep_connect::{Session, Settings, Transport};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection};
use tokio::net::UnixListener;

/// The application name of the session that migrates.
const NAME: &str = "lockstep migration";

/// sqlx makes the socket's name of a directory and a port.
const SOCKET: &str = ".s.PGSQL.5432";

/// Opens a session that is the same in every respect as [`lockstep_connect::Session`]'s.
pub(super) async fn connect(settings: &Settings) -> anyhow::Result<PgConnection> {
    // Finds the host that will do, and refuses what cannot be used.
    let session = Session::open(settings, NAME).await?;
    let of_host = session.settings_of_host().clone();
    drop(session);
    let transport = Transport::to_first_host(&of_host).await?;
    let directory = tempfile::tempdir().context("a directory for a socket")?;
    let listener = UnixListener::bind(directory.path().join(SOCKET)).context("a socket for the migration")?;
    tokio::spawn(async move {
        let mut stream = transport.stream;
        if let Ok((mut accepted, _)) = listener.accept().await {
            drop(listener);
            // Ends with either end.
            drop(tokio::io::copy_bidirectional(&mut accepted, &mut stream).await);
        }
    });
    let options = options(&of_host, directory.path())?;
    let connection = tokio::time::timeout(settings.connect_timeout(), options.connect())
        .await
        .with_context(|| format!("{} does not answer", of_host.summary()))?;
    let mut connection = connection.with_context(|| format!("connecting to {}", of_host.summary()))?;
    // sqlx sends a DateStyle of its own, which the options of the start-up message do not change; and newer settings are not in them.
    let major = connection.server_version_num().map_or(0, |version| version / 10_000);
    connection.execute(AssertSqlSafe(lockstep_connect::pinning_statement(major))).await.context("settings")?;
    Ok(connection)
}

fn options(settings: &Settings, directory: &Path) -> anyhow::Result<PgConnectOptions> {
    // Only a URL takes the options of the start-up message as they are.
    let given: String = form_urlencoded::byte_serialize(settings.startup_options().as_bytes()).collect();
    let options = PgConnectOptions::from_str(&format!("postgres:///?options={given}"))?
        .socket(directory)
        .port(5432)
        .ssl_mode(PgSslMode::Disable)
        .username(settings.user())
        .database(settings.database())
        .application_name(NAME)
        .statement_cache_capacity(0)
        .disable_statement_logging();
    Ok(match settings.password() {
        Some(password) => options.password(password),
        None => options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_session_needs_is_carried_over() {
        let url = "postgres://me:p%40%20ss@db.example:6000/sh%20op?sslmode=require&options=-c%20geqo%3Doff";
        let settings = Settings::resolve(Some(url), &|_| None).unwrap();
        let found = options(&settings, Path::new("/run/sockets")).unwrap();
        assert_eq!((found.get_username(), found.get_database()), ("me", Some("sh op")));
        assert_eq!(found.get_socket().and_then(|path| path.to_str()), Some("/run/sockets"));
        let given = found.get_options().unwrap();
        assert!(given.contains("-c geqo=off"), "{given}");
        for setting in lockstep_connect::PINNED_SETTINGS.iter().filter(|setting| setting.since == 0) {
            let escaped = setting.value.replace(' ', "\\ ");
            assert!(given.contains(&format!("-c {}={escaped}", setting.name)), "{} in {given}", setting.name);
        }
    }
}
