//! From a connection string and libpq's environment to connection settings.
//!
//! Where the string is silent a service speaks, then libpq's variables (`PGHOST`, `PGPORT`, `PGUSER`, …), then the password file, then
//! libpq's defaults. The settings keep how they were made: service, password and certificate files are read anew for every connection,
//! so that what is rotated is taken up.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::conninfo;
use crate::endpoint::{Endpoint, ServerIdentity};
use crate::host::{Attributes, Host};
use crate::parameters::{Environment, Parameters, Variables};
use crate::passfile::{self, Wanted};
use crate::pinned::startup_options;
use crate::settings_error::SettingsError;
use crate::tls::{TlsMode, TlsSettings};

/// A connection attempt that hangs is given up after this many seconds, unless the string or `PGCONNECT_TIMEOUT` says otherwise.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;

/// Directories where Debian's and upstream's servers put their Unix socket. libpq looks passwords for them up as "localhost".
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// How settings are made.
#[derive(Clone)]
struct Recipe {
    text: String,
    variables: Variables,
    password_file: Option<PathBuf>,
    database: Option<String>,
    only_host: Option<Host>,
}

/// What a recipe makes at one moment.
#[derive(Clone)]
pub(crate) struct Resolved {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) options: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) attributes: Attributes,
    pub(crate) shuffled: bool,
    pub(crate) binding: Binding,
    pub(crate) required_peer: Option<String>,
    pub(crate) keepalive: Keepalive,
    pub(crate) tls: TlsSettings,
}

/// libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Never.
    Disable,
    /// Where TLS and the server offer it.
    Prefer,
    /// Or no connection.
    Require,
}

/// How soon a connection whose other end vanished is noticed: within about a minute, unless it is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepalive {
    pub(crate) enabled: bool,
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
    pub(crate) unacknowledged_max: Duration,
}

/// Everything needed to open a connection. `Debug` and errors never show the password.
#[derive(Clone)]
pub struct Settings {
    recipe: Arc<Recipe>,
    resolved: Arc<Resolved>,
    expected: Option<Arc<ServerIdentity>>,
}

impl std::fmt::Debug for Settings {
    /// Differs wherever the settings do: what cannot be shown is told by a hash that means something in this process only.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::hash::BuildHasher as _;
        static KEY: std::sync::LazyLock<std::collections::hash_map::RandomState> = std::sync::LazyLock::new(Default::default);
        let hash = KEY.hash_one((&self.recipe.text, &self.recipe.password_file, &self.recipe.database));
        write!(formatter, "{} ({hash:x})", self.summary())
    }
}

impl Settings {
    /// Resolves a connection string (URL or `keyword=value` form; `None` or empty for the environment alone).
    ///
    /// # Errors
    /// A malformed string, an unknown word, a file that cannot be read, what is not supported, or no user to be found.
    pub fn resolve(connection_string: Option<&str>, environment: Environment<'_>) -> Result<Self, SettingsError> {
        Self::resolve_with_password_file(connection_string, None, environment)
    }

    /// The same with a file that holds the password, in place of libpq's ways.
    ///
    /// # Errors
    /// As [`Settings::resolve`].
    pub fn resolve_with_password_file(
        connection_string: Option<&str>,
        password_file: Option<PathBuf>,
        environment: Environment<'_>,
    ) -> Result<Self, SettingsError> {
        let recipe = Recipe {
            text: connection_string.unwrap_or_default().to_owned(),
            variables: Variables::taken_from(environment),
            password_file,
            database: None,
            only_host: None,
        };
        let resolved = Arc::new(recipe.resolve()?);
        Ok(Self { recipe: Arc::new(recipe), resolved, expected: None })
    }

    /// As they are now: files are read again.
    pub(crate) fn fresh(&self) -> Result<Resolved, SettingsError> {
        self.recipe.resolve()
    }

    /// The first host.
    pub fn endpoint(&self) -> Endpoint {
        self.resolved.hosts[0].endpoint()
    }

    /// All hosts, in the order in which they are given.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.resolved.hosts.iter().map(Host::endpoint).collect()
    }

    /// The first host's port, 5432 unless given.
    pub fn port(&self) -> u16 {
        self.resolved.hosts[0].port
    }

    /// The user to connect as.
    pub fn user(&self) -> &str {
        &self.resolved.user
    }

    /// The database to connect to; libpq's default is the user's name.
    pub fn database(&self) -> &str {
        &self.resolved.database
    }

    /// The first host's password, as it was when the settings were made.
    pub fn password(&self) -> Option<&str> {
        self.resolved.hosts[0].password.as_deref()
    }

    /// The TLS mode in force.
    pub fn tls_mode(&self) -> TlsMode {
        self.resolved.tls.mode
    }

    /// How long the attempt to connect to one host may take.
    pub fn connect_timeout(&self) -> Duration {
        self.resolved.connect_timeout
    }

    /// The `options` that were given, without [`PINNED_SETTINGS`](crate::PINNED_SETTINGS).
    pub fn given_options(&self) -> &str {
        &self.resolved.options
    }

    /// The value of the startup message's `options` parameter.
    pub fn startup_options(&self) -> String {
        startup_options(Some(self.given_options()))
    }

    /// `user@host:port/database`, for messages; several hosts with commas between. Never the password.
    pub fn summary(&self) -> String {
        let endpoints: Vec<String> = self.endpoints().iter().map(Endpoint::to_string).collect();
        format!("{}@{}/{}", self.user(), endpoints.join(","), self.database())
    }

    /// A URL for the same that can be written down: without the password.
    pub fn url_without_password(&self) -> String {
        let pairs = conninfo::parse(&self.recipe.text).unwrap_or_default();
        let hosts: Vec<(String, u16)> = self.resolved.hosts.iter().map(|host| (host.name.clone(), host.port)).collect();
        conninfo::url_without_password(&pairs, &hosts, self.user(), self.database())
    }

    /// Whether the connection string itself has a password.
    pub fn names_password(&self) -> bool {
        conninfo::parse(&self.recipe.text).is_ok_and(|pairs| pairs.iter().any(|(name, _)| name == "password"))
    }

    /// Whether both settings lead to the same database of the same server, as far as the settings tell.
    pub fn same_database(&self, other: &Self) -> bool {
        self.endpoints() == other.endpoints() && self.database() == other.database()
    }

    /// The same, of one host alone.
    pub(crate) fn narrowed_to(&self, host: &Host) -> Self {
        let mut settings = self.clone();
        Arc::make_mut(&mut settings.recipe).only_host = Some(host.clone());
        let resolved = Resolved { hosts: vec![host.clone()], ..(*self.resolved).clone() };
        Self { resolved: Arc::new(resolved), ..settings }
    }

    /// The same, for sessions with this very server on this very timeline only: another one is refused with
    /// [`ConnectError::AnotherServer`](crate::ConnectError::AnotherServer).
    #[must_use]
    pub fn expecting(&self, identity: ServerIdentity) -> Self {
        Self { expected: Some(Arc::new(identity)), ..self.clone() }
    }

    pub(crate) fn expected(&self) -> Option<&ServerIdentity> {
        self.expected.as_deref()
    }
}

impl Recipe {
    fn resolve(&self) -> Result<Resolved, SettingsError> {
        let parameters = Parameters::gather(&self.text, &self.variables)?;
        let user = parameters
            .get("user")
            .map(str::to_owned)
            .or_else(operating_system_user)
            .ok_or_else(|| SettingsError::new("no user: name one in the URL (postgres://USER@…) or set PGUSER"))?;
        let database = self.database.as_deref().or(parameters.get("dbname")).unwrap_or(&user).to_owned();
        let given = match &self.password_file {
            Some(path) => Some(password_of(path)?),
            None => parameters.get("password").map(str::to_owned),
        };
        let passfile = parameters.get("passfile").map(PathBuf::from).or_else(|| self.variables.at_home(".pgpass"));
        let mut hosts = match &self.only_host {
            Some(host) => vec![host.clone()],
            None => hosts(&parameters)?,
        };
        for host in &mut hosts {
            host.password = given.clone().or_else(|| {
                let wanted = Wanted { host: host_for_passfile(host), port: host.port, database: &database, user: &user };
                passfile::lookup(passfile.as_deref()?, &wanted)
            });
        }
        let seconds = parameters.number("connect_timeout")?.and_then(|seconds| u64::try_from(seconds).ok());
        let seconds = seconds.filter(|&seconds| seconds > 0).unwrap_or(CONNECT_TIMEOUT_SECONDS);
        Ok(Resolved {
            hosts,
            user,
            database,
            options: parameters.get("options").unwrap_or_default().to_owned(),
            connect_timeout: Duration::from_secs(seconds),
            attributes: Attributes::of(&parameters)?,
            shuffled: parameters.choice("load_balance_hosts", false, &[("disable", false), ("random", true)])?,
            binding: parameters.choice(
                "channel_binding",
                Binding::Prefer,
                &[("disable", Binding::Disable), ("prefer", Binding::Prefer), ("require", Binding::Require)],
            )?,
            required_peer: parameters.get("requirepeer").map(str::to_owned),
            keepalive: keepalive(&parameters)?,
            tls: TlsSettings::of(&parameters, &self.variables)?,
        })
    }
}

/// libpq's lists: as many hosts as addresses, one port or as many.
fn hosts(parameters: &Parameters) -> Result<Vec<Host>, SettingsError> {
    let (names, addresses, ports) = (parameters.list("host"), parameters.list("hostaddr"), parameters.list("port"));
    let count = names.len().max(addresses.len()).max(1);
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(SettingsError::new(format!("{} host names and {} hostaddr values", names.len(), addresses.len())));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(SettingsError::new(format!("{} ports for {count} hosts", ports.len())));
    }
    (0..count)
        .map(|n| {
            let port = match ports.get(n).or(ports.first().filter(|_| ports.len() == 1)).filter(|port| !port.is_empty()) {
                // What stands there may be a part of a password.
                Some(port) => port.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
                    SettingsError::new("the port is not a number from 1 to 65535")
                        .help("in a URL the characters / @ : # ? % of a password are written %2F %40 %3A %23 %3F %25")
                })?,
                None => 5432,
            };
            let address = addresses.get(n).filter(|address| !address.is_empty());
            let address: Option<IpAddr> = address
                .map(|text| {
                    text.parse().map_err(|_| SettingsError::new(format!("hostaddr is not a network address: \"{text}\"")))
                })
                .transpose()?;
            let name = names.get(n).filter(|name| !name.is_empty()).cloned();
            Ok(Host { name: name.unwrap_or_else(|| default_host(address)), address, port, password: None })
        })
        .collect()
}

fn default_host(address: Option<IpAddr>) -> String {
    let socket_directory =
        || SOCKET_DIRECTORIES.iter().find(|directory| Path::new(directory).is_dir()).map(|&path| path.to_owned());
    address.map(|address| address.to_string()).or_else(socket_directory).unwrap_or_else(|| "localhost".to_owned())
}

fn host_for_passfile(host: &Host) -> &str {
    if SOCKET_DIRECTORIES.contains(&host.name.as_str()) { "localhost" } else { &host.name }
}

/// The password in a file of its own, without the line's end.
fn password_of(path: &Path) -> Result<String, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError::new(format!("cannot read the password file {}: {error}", path.display())))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn keepalive(parameters: &Parameters) -> Result<Keepalive, SettingsError> {
    let given = |name: &str| {
        parameters.number(name).map(|number| number.and_then(|number| u64::try_from(number).ok()).filter(|&n| n > 0))
    };
    Ok(Keepalive {
        enabled: parameters.number("keepalives")? != Some(0),
        idle: Duration::from_secs(given("keepalives_idle")?.unwrap_or(30)),
        interval: Duration::from_secs(given("keepalives_interval")?.unwrap_or(10)),
        count: given("keepalives_count")?.and_then(|count| u32::try_from(count).ok()).unwrap_or(3),
        unacknowledged_max: Duration::from_millis(given("tcp_user_timeout")?.unwrap_or(60_000)),
    })
}

fn operating_system_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests;
