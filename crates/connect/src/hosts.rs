//! The hosts of a connection string, in the order in which they are tried, and which of them will do.

use std::sync::Arc;

use rand::seq::SliceRandom as _;

use crate::endpoint::Endpoint;
use crate::error::ConnectError;
use crate::host::{Address, Host};
use crate::pinned::startup_options;
use crate::settings::{Binding, Resolved};

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
