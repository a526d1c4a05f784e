//! One way to a server for connections of every kind: the hosts one after the other, as libpq tries them.
//!
//! A host that cannot be reached within the connect time-out, that starts up or shuts down, or that is not of the kind asked for
//! (`target_session_attrs`) makes way for the next. One that refuses (a password, a certificate) ends it, as in libpq: the next would
//! hide what is wrong.

use std::fmt::Display;
use std::sync::Arc;

use crate::error::{ConnectError, ErrorClass};
use crate::hosts::{Candidate, candidates, in_order};
use crate::settings::Settings;
use crate::transport::Transport;

/// How a kind of connection logs in over an open transport.
pub trait Login: Sync {
    /// What is opened.
    type Opened: Send;
    /// What goes wrong.
    type Error: From<ConnectError> + Display + Send;

    /// Logs in.
    fn login(
        &self,
        transport: Transport,
        to: &Candidate,
    ) -> impl Future<Output = Result<LoggedIn<Self::Opened>, Self::Error>> + Send;

    /// Whether a later attempt may succeed by itself.
    fn class(error: &Self::Error) -> ErrorClass;

    /// Whether the next host is to be tried.
    fn tries_next(error: &Self::Error) -> bool;
}

/// A connection, and what the server said of itself.
pub struct LoggedIn<T> {
    /// The connection.
    pub opened: T,
    /// The server's `in_hot_standby`, which 14 and later report at start-up.
    pub in_hot_standby: bool,
}

/// Opens a connection with the first host that will do.
///
/// # Errors
/// What the one host said, or what all of them did.
pub async fn establish<L: Login>(settings: &Settings, login: &L) -> Result<(L::Opened, Candidate), L::Error> {
    let resolved = Arc::new(settings.fresh().map_err(ConnectError::Settings)?);
    let mut failures: Vec<L::Error> = Vec::new();
    let hosts = in_order(&resolved);
    for wanted in resolved.attributes.rounds() {
        failures.clear();
        for host in &hosts {
            let found = match candidates(&resolved, host).await {
                Ok(found) => found,
                Err(error) => {
                    failures.push(error.into());
                    continue;
                }
            };
            for candidate in found {
                let endpoint = || candidate.endpoint().to_string();
                let attempt = Box::pin(attempt(&candidate, login));
                match tokio::time::timeout(resolved.connect_timeout, attempt).await {
                    Ok(Ok(logged_in)) => match wanted.missing(logged_in.in_hot_standby) {
                        None => return Ok((logged_in.opened, candidate)),
                        Some(missing) => failures.push(ConnectError::OfAnotherKind { endpoint: endpoint(), missing }.into()),
                    },
                    Ok(Err(error)) if L::tries_next(&error) => failures.push(error),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {
                        let cause = std::io::ErrorKind::TimedOut.into();
                        failures.push(ConnectError::Unreachable { endpoint: endpoint(), cause }.into());
                    }
                }
            }
        }
    }
    Err(together::<L>(failures))
}

async fn attempt<L: Login>(candidate: &Candidate, login: &L) -> Result<LoggedIn<L::Opened>, L::Error> {
    let transport = Transport::open(candidate).await?;
    login.login(transport, candidate).await
}

fn together<L: Login>(mut failures: Vec<L::Error>) -> L::Error {
    if failures.len() == 1
        && let Some(only) = failures.pop()
    {
        return only;
    }
    let definite = failures.iter().all(|failure| L::class(failure) == ErrorClass::Definite);
    let attempts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    ConnectError::NoHost { attempts, definite }.into()
}
