//! libpq's parameters: from the connection string, then a service, then the environment.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crate::conninfo;
use crate::service;
use crate::settings_error::SettingsError;

/// Reads an environment variable; tests pass a map.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a keyword is to us.
enum Use {
    Known,
    /// Says nothing that we would do otherwise.
    Ignored,
    /// Asks for what we cannot do; what to use instead. A value in the list asks for nothing.
    Refused(&'static str, &'static [&'static str]),
}

/// The keywords with their variables (libpq's `PQconninfoOptions`).
const KEYWORDS: &[(&str, &str, Use)] = &[
    ("service", "PGSERVICE", Use::Known),
    ("servicefile", "PGSERVICEFILE", Use::Known),
    ("host", "PGHOST", Use::Known),
    ("hostaddr", "PGHOSTADDR", Use::Known),
    ("port", "PGPORT", Use::Known),
    ("user", "PGUSER", Use::Known),
    ("dbname", "PGDATABASE", Use::Known),
    ("password", "PGPASSWORD", Use::Known),
    ("passfile", "PGPASSFILE", Use::Known),
    ("options", "PGOPTIONS", Use::Known),
    ("channel_binding", "PGCHANNELBINDING", Use::Known),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Use::Known),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Use::Known),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Use::Known),
    ("sslmode", "PGSSLMODE", Use::Known),
    ("sslnegotiation", "PGSSLNEGOTIATION", Use::Known),
    ("sslcert", "PGSSLCERT", Use::Known),
    ("sslkey", "PGSSLKEY", Use::Known),
    ("sslcertmode", "PGSSLCERTMODE", Use::Known),
    ("sslrootcert", "PGSSLROOTCERT", Use::Known),
    ("sslcrl", "PGSSLCRL", Use::Known),
    ("sslcrldir", "PGSSLCRLDIR", Use::Known),
    ("sslsni", "PGSSLSNI", Use::Known),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Use::Known),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Use::Known),
    ("requirepeer", "PGREQUIREPEER", Use::Known),
    ("keepalives", "", Use::Known),
    ("keepalives_idle", "", Use::Known),
    ("keepalives_interval", "", Use::Known),
    ("keepalives_count", "", Use::Known),
    ("tcp_user_timeout", "", Use::Known),
    // Every session has its own name and UTF8.
    ("application_name", "PGAPPNAME", Use::Ignored),
    ("fallback_application_name", "", Use::Ignored),
    ("client_encoding", "PGCLIENTENCODING", Use::Ignored),
    ("sslcompression", "PGSSLCOMPRESSION", Use::Ignored),
    ("krbsrvname", "PGKRBSRVNAME", Use::Ignored),
    ("gsslib", "PGGSSLIB", Use::Ignored),
    ("gssdelegation", "PGGSSDELEGATION", Use::Ignored),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", Use::Refused("leave it out: protocol 3.0 is spoken", &["3.0"])),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", Use::Ignored),
    ("gssencmode", "PGGSSENCMODE", Use::Refused("use TLS: sslmode=verify-full", &["disable", "prefer"])),
    (
        "require_auth",
        "PGREQUIREAUTH",
        Use::Refused(
            "use channel_binding=require, which insists on SCRAM over TLS with the server's own certificate, or sslcert",
            &[],
        ),
    ),
    ("sslpassword", "", Use::Refused("name a key that is not encrypted and that only we can read", &[])),
    ("sslkeylogfile", "", Use::Refused("leave it out: keys are not logged", &[])),
    ("replication", "", Use::Refused("leave it out: Lockstep asks for it where it needs it", &["false", "off", "no", "0"])),
    ("scram_client_key", "", Use::Refused("give the password", &[])),
    ("scram_server_key", "", Use::Refused("give the password", &[])),
    ("oauth_issuer", "", Use::Refused("use a password or a certificate (sslcert)", &[])),
    ("oauth_client_id", "", Use::Refused("use a password or a certificate (sslcert)", &[])),
    ("oauth_client_secret", "", Use::Refused("use a password or a certificate (sslcert)", &[])),
    ("oauth_scope", "", Use::Refused("use a password or a certificate (sslcert)", &[])),
];

/// Variables besides the keywords' that decide where something is.
const PLACES: [&str; 2] = ["HOME", "PGSYSCONFDIR"];

/// The variables that count, as they are when the settings are made: those of a process do not change.
#[derive(Clone, Default)]
pub(crate) struct Variables(HashMap<&'static str, String>);

impl Variables {
    pub(crate) fn taken_from(environment: Environment<'_>) -> Self {
        let names = KEYWORDS.iter().map(|(_, variable, _)| *variable).filter(|name| !name.is_empty()).chain(PLACES);
        Self(names.filter_map(|name| environment(name).map(|value| (name, value))).collect())
    }

    fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    /// A file of the user's, `~/…`.
    pub(crate) fn at_home(&self, name: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| PathBuf::from(home).join(name))
    }
}

/// Values by keyword.
pub(crate) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Reads the service file, if one is asked for.
    pub(crate) fn gather(text: &str, variables: &Variables) -> Result<Self, SettingsError> {
        let mut found = Self(BTreeMap::new());
        for (name, value) in conninfo::parse(text)? {
            found.0.insert(keyword(&name)?, value);
        }
        let from_environment = |name: &str| {
            let variable = KEYWORDS.iter().find(|(keyword, ..)| *keyword == name).map_or("", |(_, variable, _)| variable);
            variables.get(variable).cloned()
        };
        if let Some(service) = found.get("service").map(str::to_owned).or_else(|| from_environment("service")) {
            let named = found.get("servicefile").map(str::to_owned).or_else(|| from_environment("servicefile"));
            let system = variables.get("PGSYSCONFDIR").map(PathBuf::from);
            let files = service::files(named.map(PathBuf::from), variables.at_home(".pg_service.conf"), system);
            for (name, value) in service::lookup(&files, &service)? {
                found.0.entry(keyword(&name)?).or_insert(value);
            }
        }
        for (name, _, _) in KEYWORDS {
            if let Some(value) = from_environment(name) {
                found.0.entry(name).or_insert(value);
            }
        }
        found.refuse()?;
        Ok(found)
    }

    /// The value, unless it is empty: that means the default.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn refuse(&self) -> Result<(), SettingsError> {
        for (name, variable, usage) in KEYWORDS {
            match (usage, self.get(name)) {
                (Use::Refused(instead, harmless), Some(value)) if !harmless.contains(&value) => {
                    let or_variable = if variable.is_empty() { String::new() } else { format!(" ({variable})") };
                    return Err(SettingsError::new(format!("{name}{or_variable} is not supported")).help(*instead));
                }
                (Use::Refused(..) | Use::Known | Use::Ignored, _) => {}
            }
        }
        Ok(())
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&self, name: &str, default: T, words: &[(&str, T)]) -> Result<T, SettingsError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            SettingsError::new(format!("unknown {name} \"{value}\"; known are {}", known.join(", ")))
        })
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, SettingsError> {
        self.get(name)
            .map(|value| {
                value.trim().parse().map_err(|_| SettingsError::new(format!("{name} is not a whole number: \"{value}\"")))
            })
            .transpose()
    }

    /// A list with commas; empty where nothing is given.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.get(name).map_or_else(Vec::new, |value| value.split(',').map(|part| part.trim().to_owned()).collect())
    }
}

fn keyword(name: &str) -> Result<&'static str, SettingsError> {
    if let Some((known, ..)) = KEYWORDS.iter().find(|(known, ..)| *known == name) {
        return Ok(known);
    }
    Err(SettingsError::new(format!("unknown parameter \"{name}\" in the connection string")))
}
