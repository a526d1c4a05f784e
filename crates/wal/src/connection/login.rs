//! Startup and authentication: clear text, MD5, SCRAM-SHA-256 with channel binding where TLS gives one.

use lockstep_connect::Settings;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::wire::{Backend, Wire};
use crate::ReplicationError;

/// Authentication request codes (PostgreSQL documentation, message formats).
mod request {
    pub(super) const OK: u32 = 0;
    pub(super) const CLEARTEXT: u32 = 3;
    pub(super) const MD5: u32 = 5;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

/// Logs in; returns the server's version as it reports it.
pub(super) async fn login(
    wire: &mut Wire,
    settings: &Settings,
    server_end_point: Option<Vec<u8>>,
) -> Result<Option<String>, ReplicationError> {
    let options = settings.startup_options();
    let parameters = [
        ("user", settings.user()),
        ("database", settings.database()),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", "lockstep replication"),
        ("options", options.as_str()),
    ];
    wire.send(|buffer| frontend::startup_message(parameters, buffer)).await?;
    authenticate(wire, settings, server_end_point).await?;
    let mut version = None;
    loop {
        let message = wire.receive().await?;
        match message.tag {
            b'Z' => return Ok(version),
            b'S' => version = version.or_else(|| message.parameter("server_version")),
            b'K' | b'N' => {}
            _ => return Err(message.into_error()),
        }
    }
}

async fn authenticate(wire: &mut Wire, settings: &Settings, server_end_point: Option<Vec<u8>>) -> Result<(), ReplicationError> {
    let password = || {
        settings.password().ok_or_else(|| {
            ReplicationError::Authentication(
                "the server asks for a password and none is given (URL, PGPASSWORD or ~/.pgpass)".to_owned(),
            )
        })
    };
    loop {
        let (code, body) = next_request(wire).await?;
        match code {
            request::OK => return Ok(()),
            request::CLEARTEXT => {
                let password = password()?;
                wire.send(|buffer| frontend::password_message(password, buffer)).await?;
            }
            request::MD5 => {
                let salt = body.first_chunk::<4>().ok_or_else(|| ReplicationError::Protocol("no MD5 salt".to_owned()))?;
                let hash = md5_hash(settings.user().as_bytes(), password()?, *salt);
                wire.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
            }
            request::SASL => scram(wire, password()?, &body, server_end_point.clone()).await?,
            other => {
                return Err(ReplicationError::Authentication(format!(
                    "the server asks for method {other}; supported are trust, password, md5 and scram-sha-256"
                )));
            }
        }
    }
}

async fn next_request(wire: &mut Wire) -> Result<(u32, Vec<u8>), ReplicationError> {
    loop {
        let message = wire.receive().await?;
        match message {
            Backend { tag: b'R', body } => {
                let (code, rest) = body
                    .split_first_chunk::<4>()
                    .ok_or_else(|| ReplicationError::Protocol("an empty authentication request".to_owned()))?;
                return Ok((u32::from_be_bytes(*code), rest.to_vec()));
            }
            Backend { tag: b'N', .. } => {}
            other => return Err(other.into_error()),
        }
    }
}

async fn scram(
    wire: &mut Wire,
    password: &[u8],
    mechanisms: &[u8],
    server_end_point: Option<Vec<u8>>,
) -> Result<(), ReplicationError> {
    let offered: Vec<&[u8]> = mechanisms.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    let offers = |name: &str| offered.contains(&name.as_bytes());
    let (mechanism, binding) = match server_end_point {
        Some(data) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(data)),
        // Telling the server that we could bind and it did not offer it guards against a downgrade in between.
        Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        Some(_) | None => {
            return Err(ReplicationError::Authentication("the server offers no SCRAM mechanism that is supported".to_owned()));
        }
    };
    let failed = |error: std::io::Error| ReplicationError::Authentication(error.to_string());
    let mut exchange = ScramSha256::new(password, binding);
    wire.send(|buffer| frontend::sasl_initial_response(mechanism, exchange.message(), buffer)).await?;
    exchange.update(&expect(wire, request::SASL_CONTINUE).await?).map_err(failed)?;
    wire.send(|buffer| frontend::sasl_response(exchange.message(), buffer)).await?;
    exchange.finish(&expect(wire, request::SASL_FINAL).await?).map_err(failed)
}

async fn expect(wire: &mut Wire, expected: u32) -> Result<Vec<u8>, ReplicationError> {
    match next_request(wire).await? {
        (code, body) if code == expected => Ok(body),
        (code, _) => Err(ReplicationError::Protocol(format!("authentication request {code} instead of {expected}"))),
    }
}
