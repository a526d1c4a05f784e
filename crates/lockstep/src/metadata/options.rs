//! The one place where connection settings become sqlx's.

use std::str::FromStr as _;

use anyhow::Context as _;
use lockstep_connect::{Endpoint, Settings, TlsMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection};

/// The application name of the session that migrates.
const NAME: &str = "lockstep migration";

/// Opens a session that is the same in every respect as [`lockstep_connect::Session`]'s.
pub(super) async fn connect(settings: &Settings) -> anyhow::Result<PgConnection> {
    let options = options(settings)?;
    let connection = tokio::time::timeout(settings.connect_timeout(), options.connect())
        .await
        .with_context(|| format!("{} does not answer", settings.summary()))?;
    let mut connection = connection.with_context(|| format!("connecting to {}", settings.summary()))?;
    // sqlx sends a DateStyle of its own, which the options of the start-up message do not change; and newer settings are not in them.
    let major = connection.server_version_num().map_or(0, |version| version / 10_000);
    connection.execute(AssertSqlSafe(lockstep_connect::pinning_statement(major))).await.context("settings")?;
    Ok(connection)
}

fn options(settings: &Settings) -> anyhow::Result<PgConnectOptions> {
    // Only a URL takes the options of the start-up message as they are.
    let given: String = form_urlencoded::byte_serialize(settings.startup_options().as_bytes()).collect();
    let mut options = PgConnectOptions::from_str(&format!("postgres:///?options={given}"))?
        .username(settings.user())
        .database(settings.database())
        .application_name(NAME)
        .statement_cache_capacity(0)
        .disable_statement_logging();
    options = match settings.endpoint() {
        Endpoint::Tcp(host, port) => options.host(&host).port(port),
        Endpoint::Unix(file) => {
            let directory = file.parent().context("the socket is in no directory")?;
            options.socket(directory).port(settings.port())
        }
    };
    if let Some(password) = settings.password() {
        options = options.password(std::str::from_utf8(password).context("the password is not UTF-8")?);
    }
    if let Some(certificate) = settings.root_certificate() {
        options = options.ssl_root_cert(certificate);
    }
    // As libpq has it: with a root certificate at hand, require verifies it.
    let mode = match (settings.tls_mode(), settings.root_certificate()) {
        (TlsMode::Disable, _) => PgSslMode::Disable,
        (TlsMode::Prefer, _) => PgSslMode::Prefer,
        (TlsMode::Require, None) => PgSslMode::Require,
        (TlsMode::Require, Some(_)) | (TlsMode::VerifyCa, _) => PgSslMode::VerifyCa,
        (TlsMode::VerifyFull, _) => PgSslMode::VerifyFull,
    };
    Ok(options.ssl_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> PgConnectOptions {
        options(&Settings::resolve(Some(url), &|_| None).unwrap()).unwrap()
    }

    #[test]
    fn everything_that_a_session_needs_is_carried_over() {
        let found = of("postgres://me:p%40%20ss@db.example:6000/sh%20op?sslmode=require&options=-c%20geqo%3Doff");
        assert_eq!((found.get_host(), found.get_port(), found.get_username()), ("db.example", 6000, "me"));
        assert_eq!(found.get_database(), Some("sh op"));
        assert!(matches!(found.get_ssl_mode(), PgSslMode::Require));
        let given = found.get_options().unwrap();
        assert!(given.contains("-c geqo=off"), "{given}");
        for setting in lockstep_connect::PINNED_SETTINGS.iter().filter(|setting| setting.since == 0) {
            let escaped = setting.value.replace(' ', "\\ ");
            assert!(given.contains(&format!("-c {}={escaped}", setting.name)), "{} in {given}", setting.name);
        }
        let found = of("host=/run/sockets user=me port=6000");
        assert_eq!((found.get_socket().unwrap().to_str(), found.get_port()), (Some("/run/sockets"), 6000));
    }

    #[test]
    fn certificates_are_verified_where_sessions_verify_them() {
        assert!(matches!(of("postgres://a@b/c?sslmode=require&sslrootcert=/x.pem").get_ssl_mode(), PgSslMode::VerifyCa));
        assert!(matches!(of("postgres://a@b/c?sslmode=verify-full").get_ssl_mode(), PgSslMode::VerifyFull));
        assert!(matches!(of("postgres://a@b/c?sslmode=disable").get_ssl_mode(), PgSslMode::Disable));
    }
}
