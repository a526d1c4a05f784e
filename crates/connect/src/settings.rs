//! From a URL and libpq's environment to one set of connection settings.
//!
//! Where the URL is silent, libpq's variables speak (`PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`,
//! `PGSSLROOTCERT`, `PGCONNECT_TIMEOUT`, `PGPASSFILE`), then the password file, then libpq's defaults.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::Host;

use crate::passfile::{self, Wanted};
use crate::pinned::startup_options;
use crate::tls::TlsMode;

/// Reads an environment variable; tests pass a map.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A connection attempt that hangs is given up after this many seconds, unless the URL or `PGCONNECT_TIMEOUT` says otherwise.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;

/// Directories where Debian's and upstream's servers put their Unix socket.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The URL or environment does not make connection settings.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    /// What is wrong, without the password.
    pub message: String,
}

impl SettingsError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address and a port.
    Tcp(String, u16),
    /// The socket file of a Unix-domain socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// Everything needed to open a connection. `Debug` and errors never show the password.
#[derive(Clone)]
pub struct Settings {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) tls_mode: TlsMode,
    pub(crate) root_certificate: Option<PathBuf>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.summary())
    }
}

impl Settings {
    /// Resolves a connection string (URL or `key=value` form; `None` or empty for the environment alone).
    ///
    /// # Errors
    /// A malformed string, an unknown `sslmode`, or no user to be found.
    pub fn resolve(connection_string: Option<&str>, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let (rest, tls) = TlsParameters::extract(connection_string.unwrap_or(""), environment)?;
        let rest = with_default_port(rest, environment);
        let mut config: tokio_postgres::Config = rest.parse().map_err(|error: tokio_postgres::Error| {
            SettingsError::new(format!("malformed connection string: {}", crate::describe(&error)))
        })?;
        config.ssl_mode(tls.mode.for_tokio_postgres());
        fill_from_environment(&mut config, environment)?;
        let mut settings = Self { config, tls_mode: tls.mode, root_certificate: tls.root_certificate };
        settings.fill_password(environment);
        Ok(settings)
    }

    fn fill_password(&mut self, environment: Environment<'_>) {
        if self.config.get_password().is_some() {
            return;
        }
        if let Some(password) = environment("PGPASSWORD") {
            self.config.password(password);
            return;
        }
        let path = environment("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".pgpass")));
        let (host, port) = match self.endpoint() {
            Endpoint::Tcp(host, port) => (host, port),
            // libpq looks a default socket directory up as "localhost".
            Endpoint::Unix(_) => ("localhost".to_owned(), self.port()),
        };
        let wanted = Wanted { host: &host, port, database: self.database(), user: self.user() };
        if let Some(password) = path.and_then(|path| passfile::lookup(&path, &wanted)) {
            self.config.password(password);
        }
    }

    /// The first host of the connection string.
    pub fn endpoint(&self) -> Endpoint {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => Endpoint::Tcp(host.clone(), self.port()),
            Some(Host::Unix(directory)) => Endpoint::Unix(directory.join(format!(".s.PGSQL.{}", self.port()))),
            None => Endpoint::Tcp("localhost".to_owned(), self.port()),
        }
    }

    /// The port, 5432 unless given.
    pub fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// The user to connect as.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The database to connect to; libpq's default is the user's name.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    /// The password, for the replication connection's own authentication.
    pub fn password(&self) -> Option<&[u8]> {
        self.config.get_password()
    }

    /// The TLS mode in force.
    pub fn tls_mode(&self) -> TlsMode {
        self.tls_mode
    }

    /// The file of trusted authorities, where one is named.
    pub fn root_certificate(&self) -> Option<&std::path::Path> {
        self.root_certificate.as_deref()
    }

    /// The `options` that were given, without [`PINNED_SETTINGS`](crate::PINNED_SETTINGS).
    pub fn given_options(&self) -> &str {
        self.config.get_options().unwrap_or_default()
    }

    /// The value of the startup message's `options` parameter.
    pub fn startup_options(&self) -> String {
        startup_options(self.config.get_options())
    }

    /// How long a connection attempt may take.
    pub fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(CONNECT_TIMEOUT_SECONDS))
    }

    /// `user@host:port/database`, for messages. Never the password.
    pub fn summary(&self) -> String {
        format!("{}@{}/{}", self.user(), self.endpoint(), self.database())
    }

    /// Whether both settings lead to the same database of the same server, as far as the settings tell.
    pub fn same_database(&self, other: &Self) -> bool {
        self.endpoint() == other.endpoint() && self.database() == other.database()
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut settings = self.clone();
        settings.config.dbname(database);
        settings
    }
}

struct TlsParameters {
    mode: TlsMode,
    root_certificate: Option<PathBuf>,
}

impl TlsParameters {
    /// Takes `sslmode` and `sslrootcert` out of the string: tokio-postgres knows only three of the modes and no certificates.
    fn extract(text: &str, environment: Environment<'_>) -> Result<(String, Self), SettingsError> {
        let (rest, pairs) = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            split_url(text)
        } else {
            split_keywords(text)
        };
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let mode_text = find("sslmode").or_else(|| environment("PGSSLMODE")).unwrap_or_else(|| "prefer".to_owned());
        let mode = TlsMode::parse(&mode_text).ok_or_else(|| {
            SettingsError::new(format!(
                "unknown sslmode \"{mode_text}\"; known are disable, allow, prefer, require, verify-ca, verify-full"
            ))
        })?;
        let root_certificate = find("sslrootcert").or_else(|| environment("PGSSLROOTCERT")).map(PathBuf::from);
        Ok((rest, Self { mode, root_certificate }))
    }
}

/// Gives a URL that names a host and no port the port of `PGPORT`: tokio-postgres would fill in 5432 by itself.
fn with_default_port(text: String, environment: Environment<'_>) -> String {
    let (Some(port), Some(start)) = (environment("PGPORT"), text.find("://").map(|at| at + 3)) else {
        return text;
    };
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    let hosts = text[start..end].rsplit('@').next().unwrap_or_default();
    let after_address = hosts.rsplit(']').next().unwrap_or_default();
    if hosts.is_empty() || hosts.contains(',') || after_address.contains(':') {
        return text;
    }
    format!("{}:{port}{}", &text[..end], &text[end..])
}

fn is_tls_key(key: &str) -> bool {
    matches!(key, "sslmode" | "sslrootcert")
}

fn split_url(text: &str) -> (String, Vec<(String, String)>) {
    let Some((base, query)) = text.split_once('?') else {
        return (text.to_owned(), Vec::new());
    };
    let (ours, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| is_tls_key(pair.split('=').next().unwrap_or_default()));
    let pairs = ours
        .into_iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), percent_decode(value)))
        .collect();
    let rest = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    (rest, pairs)
}

fn split_keywords(text: &str) -> (String, Vec<(String, String)>) {
    let (ours, others): (Vec<&str>, Vec<&str>) =
        text.split_whitespace().partition(|pair| is_tls_key(pair.split('=').next().unwrap_or_default()));
    let pairs = ours
        .into_iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('\'').to_owned()))
        .collect();
    (others.join(" "), pairs)
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = (*first == b'%')
            .then(|| tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = hex {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn fill_from_environment(config: &mut tokio_postgres::Config, environment: Environment<'_>) -> Result<(), SettingsError> {
    if config.get_hosts().is_empty() {
        let socket_directory =
            || SOCKET_DIRECTORIES.iter().find(|directory| std::path::Path::new(directory).is_dir()).map(|&path| path.to_owned());
        let host = environment("PGHOST").or_else(socket_directory).unwrap_or_else(|| "localhost".to_owned());
        config.host(host);
    }
    if config.get_ports().is_empty()
        && let Some(port) = environment("PGPORT")
    {
        config.port(port.parse().map_err(|_| SettingsError::new(format!("PGPORT is not a port number: \"{port}\"")))?);
    }
    if config.get_user().is_none() {
        let user = environment("PGUSER")
            .or_else(operating_system_user)
            .ok_or_else(|| SettingsError::new("no user: name one in the URL (postgres://USER@…) or set PGUSER"))?;
        config.user(user);
    }
    if config.get_dbname().is_none()
        && let Some(database) = environment("PGDATABASE")
    {
        config.dbname(database);
    }
    if config.get_connect_timeout().is_none() {
        let seconds = environment("PGCONNECT_TIMEOUT").and_then(|text| text.parse().ok()).filter(|&seconds| seconds > 0);
        config.connect_timeout(Duration::from_secs(seconds.unwrap_or(CONNECT_TIMEOUT_SECONDS)));
    }
    Ok(())
}

fn operating_system_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(url: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::resolve(Some(url), &|name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn environment_fills_what_the_url_leaves_out() {
        let environment = [("PGHOST", "db"), ("PGPORT", "6000"), ("PGUSER", "app"), ("PGPASSWORD", "x"), ("PGDATABASE", "shop")];
        let settings = resolve("", &environment).unwrap();
        assert_eq!(settings.summary(), "app@db:6000/shop");
        assert_eq!(settings.password(), Some(b"x".as_slice()));
        let settings = resolve("postgres://me:secret@other/sales", &environment).unwrap();
        assert_eq!(settings.summary(), "me@other:6000/sales");
        assert_eq!(settings.password(), Some(b"secret".as_slice()));
    }

    #[test]
    fn tls_parameters_are_ours() {
        let settings = resolve("postgres://a@b/c?sslmode=verify-full&sslrootcert=/x%20y.pem&application_name=z", &[]).unwrap();
        assert_eq!(settings.tls_mode, TlsMode::VerifyFull);
        assert_eq!(settings.root_certificate, Some(PathBuf::from("/x y.pem")));
        assert_eq!(resolve("host=b user=a", &[("PGSSLMODE", "disable")]).unwrap().tls_mode, TlsMode::Disable);
        assert!(resolve("postgres://a@b/c?sslmode=maybe", &[]).unwrap_err().message.contains("unknown sslmode"));
    }

    #[test]
    fn the_password_is_never_shown() {
        let settings = resolve("postgres://me:hush@h/d", &[]).unwrap();
        assert!(!format!("{settings:?}").contains("hush"));
        let error = resolve("postgres://me:hush@h:port/d", &[]).unwrap_err();
        assert!(!error.message.contains("hush"), "{}", error.message);
    }
}
