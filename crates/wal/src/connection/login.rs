//! Startup and authentication: clear text, MD5, SCRAM-SHA-256 with channel binding where TLS gives one.

use lockstep_connect::{Binding, Candidate};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::wire::{Backend, Wire};
use crate::ReplicationError;

/// What walsenders of ours are called in `pg_stat_replication`, and by what `synchronous_standby_names` would choose them.
pub const APPLICATION_NAME: &str = "lockstep replication";

/// Authentication request codes (PostgreSQL documentation, message formats).
mod request {
    pub(super) const OK: u32 = 0;
    pub(super) const CLEARTEXT: u32 = 3;
    pub(super) const MD5: u32 = 5;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

/// What the server says of itself when a login is done.
#[derive(Default)]
pub(super) struct Said {
    pub(super) version: Option<String>,
    pub(super) encoding: Option<String>,
    pub(super) in_hot_standby: bool,
}

pub(super) async fn login(wire: &mut Wire, to: &Candidate, server_end_point: Option<Vec<u8>>) -> Result<Said, ReplicationError> {
    let options = to.startup_options();
    let parameters = [
        ("user", to.user()),
        ("database", to.database()),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", APPLICATION_NAME),
        ("options", options.as_str()),
    ];
    wire.send(|buffer| frontend::startup_message(parameters, buffer)).await?;
    authenticate(wire, to, server_end_point).await?;
    let mut said = Said::default();
    loop {
        let message = wire.receive().await?;
        match message.tag {
            b'Z' => return Ok(said),
            b'S' => {
                said.version = said.version.or_else(|| message.parameter("server_version"));
                said.encoding = said.encoding.or_else(|| message.parameter("server_encoding"));
                said.in_hot_standby |= message.parameter("in_hot_standby").as_deref() == Some("on");
            }
            b'K' | b'N' => {}
            _ => return Err(message.into_error()),
        }
    }
}

async fn authenticate(wire: &mut Wire, to: &Candidate, server_end_point: Option<Vec<u8>>) -> Result<(), ReplicationError> {
    let password = || {
        to.password().map(str::as_bytes).ok_or_else(|| {
            ReplicationError::Authentication(
                "the server asks for a password and none is given (URL, PGPASSWORD, ~/.pgpass or password_file)".to_owned(),
            )
        })
    };
    loop {
        let (code, body) = next_request(wire).await?;
        match code {
            request::OK if to.binding() == Binding::Require => {
                return Err(ReplicationError::Authentication(
                    "channel_binding=require, and the server did not ask for it".to_owned(),
                ));
            }
            request::OK => return Ok(()),
            // Only SCRAM binds.
            request::CLEARTEXT | request::MD5 if to.binding() == Binding::Require => {
                return Err(ReplicationError::Authentication(
                    "channel_binding=require, and the server asks for a mere password".to_owned(),
                ));
            }
            request::CLEARTEXT => {
                let password = password()?;
                wire.send(|buffer| frontend::password_message(password, buffer)).await?;
            }
            request::MD5 => {
                let salt = body.first_chunk::<4>().ok_or_else(|| ReplicationError::Protocol("no MD5 salt".to_owned()))?;
                let hash = md5_hash(to.user().as_bytes(), password()?, *salt);
                wire.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
            }
            request::SASL => {
                scram(wire, password()?, &body, server_end_point, to.binding()).await?;
                // The exchange proves that both know the password; what follows is that it is done.
                return match next_request(wire).await? {
                    (request::OK, _) => Ok(()),
                    (code, _) => Err(ReplicationError::Protocol(format!("authentication request {code} after SCRAM"))),
                };
            }
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
    binding: Binding,
) -> Result<(), ReplicationError> {
    let server_end_point = server_end_point.filter(|_| binding != Binding::Disable);
    let offered: Vec<&[u8]> = mechanisms.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    let offers = |name: &str| offered.contains(&name.as_bytes());
    let (mechanism, binding) = match server_end_point {
        Some(data) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(data)),
        Some(_) | None if binding == Binding::Require => {
            return Err(ReplicationError::Authentication(
                "channel_binding=require, and TLS or the server does not offer it".to_owned(),
            ));
        }
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
