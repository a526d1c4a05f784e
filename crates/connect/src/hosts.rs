//! The hosts of a connection string, in the order in which they are tried, and which of them will do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rand::seq::SliceRandom as _;

use crate::error::ConnectError;
use crate::parameters::Parameters;
use crate::pinned::startup_options;
use crate::settings::{Binding, Endpoint, Resolved, SettingsError};

/// A host of the list.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, an address, or the directory of a Unix-domain socket.
    pub(crate) name: String,
    /// Where the name is not to be looked up.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) password: Option<String>,
}

impl Host {
    pub(crate) fn endpoint(&self) -> Endpoint {
        match self.socket() {
            Some(path) => Endpoint::Unix(path),
            None => Endpoint::Tcp(self.name.clone(), self.port),
        }
    }

    /// The socket's file, if it is one. `@` begins a name of the abstract namespace, which is none.
    fn socket(&self) -> Option<PathBuf> {
        let is_socket = self.address.is_none() && self.name.starts_with('/');
        is_socket.then(|| PathBuf::from(&self.name).join(format!(".s.PGSQL.{}", self.port)))
    }

    /// Where to connect to, one address after the other.
    async fn addresses(&self) -> std::io::Result<Vec<Address>> {
        if let Some(path) = self.socket() {
            return Ok(vec![Address::Unix(path)]);
        }
        if let Some(address) = self.address {
            return Ok(vec![Address::Tcp(SocketAddr::new(address, self.port))]);
        }
        Ok(tokio::net::lookup_host((self.name.as_str(), self.port)).await?.map(Address::Tcp).collect())
    }
}

/// Where to connect to.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// One address of one host, with everything that is to be said to it.
#[derive(Clone)]
pub struct Candidate {
    pub(crate) resolved: Arc<Resolved>,
    pub(crate) host: Host,
    pub(crate) address: Address,
}

impl Candidate {
    /// Where it is, for messages.
    pub fn endpoint(&self) -> Endpoint {
        self.host.endpoint()
    }

    /// The user to connect as.
    pub fn user(&self) -> &str {
        &self.resolved.user
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.resolved.database
    }

    /// The password, as it is now.
    pub fn password(&self) -> Option<&str> {
        self.host.password.as_deref()
    }

    /// The `options` that were given, without [`PINNED_SETTINGS`](crate::PINNED_SETTINGS).
    pub fn given_options(&self) -> &str {
        &self.resolved.options
    }

    /// The value of the startup message's `options` parameter.
    pub fn startup_options(&self) -> String {
        startup_options(Some(self.given_options()))
    }

    /// Whether authentication is to be bound to the TLS channel.
    pub fn binding(&self) -> Binding {
        self.resolved.binding
    }
}

/// All addresses of one host, or why there are none.
pub(crate) async fn candidates(resolved: &Arc<Resolved>, host: &Host) -> Result<Vec<Candidate>, ConnectError> {
    let looked_up = tokio::time::timeout(resolved.connect_timeout, host.addresses())
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let mut addresses = looked_up.map_err(|cause| ConnectError::Unreachable { endpoint: host.endpoint().to_string(), cause })?;
    if resolved.shuffled {
        addresses.shuffle(&mut rand::rng());
    }
    let candidate = |address| Candidate { resolved: resolved.clone(), host: host.clone(), address };
    Ok(addresses.into_iter().map(candidate).collect())
}

/// The hosts in the order in which they are tried (libpq's `load_balance_hosts`).
pub(crate) fn in_order(resolved: &Resolved) -> Vec<Host> {
    let mut hosts = resolved.hosts.clone();
    if resolved.shuffled {
        hosts.shuffle(&mut rand::rng());
    }
    hosts
}

/// libpq's `target_session_attrs`. Every session of ours may write where the server can, so that `read-write` asks for a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attributes {
    Any,
    Primary,
    Standby,
    PreferStandby,
}

impl Attributes {
    pub(crate) fn of(parameters: &Parameters) -> Result<Self, SettingsError> {
        parameters.choice(
            "target_session_attrs",
            Self::Any,
            &[
                ("any", Self::Any),
                ("read-write", Self::Primary),
                ("read-only", Self::Standby),
                ("primary", Self::Primary),
                ("standby", Self::Standby),
                ("prefer-standby", Self::PreferStandby),
            ],
        )
    }

    /// What to ask of the hosts, in one round through all of them after the other.
    pub(crate) fn rounds(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// What is missing of a server, if anything.
    pub(crate) fn missing(self, in_hot_standby: bool) -> Option<&'static str> {
        match (self, in_hot_standby) {
            (Self::Primary, true) => Some("it is a standby, and target_session_attrs asks for a primary"),
            (Self::Standby, false) => Some("it is a primary, and target_session_attrs asks for a standby"),
            (Self::Any | Self::PreferStandby, _) | (Self::Primary, false) | (Self::Standby, true) => None,
        }
    }
}
