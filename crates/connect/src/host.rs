//! One host of a connection string, and what a session asks of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::endpoint::Endpoint;
use crate::parameters::Parameters;
use crate::settings_error::SettingsError;

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
    pub(crate) async fn addresses(&self) -> std::io::Result<Vec<Address>> {
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
