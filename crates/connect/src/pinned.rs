//! The settings of every session, SQL and replication alike, against whatever a role, a database or the server has as default.
//!
//! The rule, made by going through `pg_settings` (contexts `user` and `superuser`, PostgreSQL 14–18) for what can change a result, the
//! meaning of SQL text, or end a session:
//!
//! - What Lockstep's own statements depend on is **pinned** to one value ([`PINNED_SETTINGS`]): how values print (keys travel as text and
//!   are compared as text), how text is read as SQL, as an array or as XML, how transactions begin and commit, time-outs. Where the
//!   database has another default, an expression that shows one of these (`an_interval::text`) differs from what other sessions see;
//!   `lockstep check` says so.
//! - What only an application's expressions depend on **follows the database** ([`FOLLOWED_SETTINGS`]): the read model shows what an
//!   ordinary session of that database sees, so a value that was set for our own role alone is replaced by the database's.
//! - `default_transaction_read_only` is obeyed ([`read_only_by_default`](crate::read_only_by_default)): who sets it means us, too.
//! - Everything else is left alone: plans, memory, logging, where tables are stored, and `search_path`, by which the names in the
//!   queries are found.
//!
//! All but the newest are part of the start-up message, so that they hold before the first statement. A name that the server does not
//! know would be refused there; those are set by the statement that reads all of them back. Reading back costs a round trip and finds
//! poolers: they drop start-up settings, or let another session have ours.

use crate::error::ConnectError;

/// A setting and the value that it has in every session, as `current_setting` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: &'static str,
    /// The first major version that knows it; 0 for all that are supported.
    pub since: u32,
}

const fn pinned(name: &'static str, value: &'static str) -> Pinned {
    Pinned { name, value, since: 0 }
}

/// Settings fixed for every session.
pub const PINNED_SETTINGS: &[Pinned] = &[
    // How values print, and how text is read as values.
    pinned("client_encoding", "UTF8"),
    pinned("DateStyle", "ISO, YMD"),
    pinned("IntervalStyle", "postgres"),
    pinned("TimeZone", "UTC"),
    pinned("extra_float_digits", "3"),
    pinned("bytea_output", "hex"),
    pinned("array_nulls", "on"),
    // CONTENT takes documents as well; values would not pass between two databases otherwise.
    pinned("xmloption", "content"),
    // What SQL means. The planner parses as PostgreSQL does by default.
    pinned("standard_conforming_strings", "on"),
    pinned("backslash_quote", "safe_encoding"),
    pinned("escape_string_warning", "off"),
    pinned("transform_null_equals", "off"),
    // Definitions that are printed by the server are compared.
    pinned("quote_all_identifiers", "off"),
    // A policy that would silently hide rows becomes an error.
    pinned("row_security", "off"),
    // A search in a GIN index would return some of the rows, chosen at random.
    pinned("gin_fuzzy_search_limit", "0"),
    // How transactions begin.
    pinned("default_transaction_isolation", "read committed"),
    pinned("default_transaction_deferrable", "off"),
    // Nothing of ours waits for a standby: what must not be lost is durable here, and the slot knows what is not yet.
    pinned("synchronous_commit", "local"),
    // What ends a statement, a transaction or a session.
    pinned("statement_timeout", "0"),
    pinned("lock_timeout", "0"),
    pinned("idle_session_timeout", "0"),
    pinned("idle_in_transaction_session_timeout", "0"),
    Pinned { name: "transaction_timeout", value: "0", since: 17 },
    // The walsender's patience with us: a status goes out every second.
    pinned("wal_sender_timeout", "1min"),
    pinned("exit_on_error", "off"),
    // Compiling costs more than the small statements of a batch.
    pinned("jit", "off"),
    pinned("client_min_messages", "warning"),
];

/// Settings that are what the database has for everybody, whatever the role has.
pub const FOLLOWED_SETTINGS: &[&str] =
    &["default_text_search_config", "lc_monetary", "lc_numeric", "lc_time", "timezone_abbreviations", "xmlbinary"];

/// Those of them that `initdb` writes into `postgresql.conf`: the built-in default says nothing about them.
const WRITTEN_BY_INITDB: &[&str] = &["default_text_search_config", "lc_monetary", "lc_numeric", "lc_time"];

/// The settings that every supported server takes in its start-up message.
fn settings_at_start() -> impl Iterator<Item = (&'static str, &'static str)> {
    PINNED_SETTINGS.iter().filter(|setting| setting.since == 0).map(|setting| (setting.name, setting.value))
}

/// A statement that sets all of them, for a client library that sends start-up parameters of its own beside the options.
pub fn pinning_statement(major: u32) -> String {
    let known = PINNED_SETTINGS.iter().filter(|setting| setting.since <= major);
    let set = known.map(|setting| format!("pg_catalog.set_config('{}', '{}', false)", setting.name, setting.value));
    format!("SELECT {}", set.collect::<Vec<_>>().join(", "))
}

/// The value of the start-up message's `options`: after what the user gave, because a later setting wins.
///
/// Blanks and backslashes are escaped as `pg_split_opts` (PostgreSQL's `postinit.c`) reads them.
pub(crate) fn startup_options(given: Option<&str>) -> String {
    let mut options = given.unwrap_or_default().to_owned();
    for (name, value) in settings_at_start() {
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str(&format!("-c {name}={}", value.replace('\\', "\\\\").replace(' ', "\\ ")));
    }
    options
}

/// Sets what the start-up message could not, and reads everything back.
pub struct ReadBack<'a> {
    endpoint: String,
    given_options: &'a str,
    known: Vec<&'static Pinned>,
}

/// What was read back is as it should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// A statement that is still to be run: the role has settings of its own in place of the database's.
    pub then: Option<String>,
    /// Settings that the role has for itself while the database's value is not to be seen.
    pub of_the_role: Vec<String>,
}

impl<'a> ReadBack<'a> {
    /// For a server of this version, as it reports it at start-up (`15.4 (Debian …)`), with the options that the user gave.
    pub fn new(endpoint: String, server_version: Option<&str>, given_options: &'a str) -> Self {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = server_version.and_then(|version| digits(version).parse().ok()).unwrap_or(0);
        let known = PINNED_SETTINGS.iter().filter(|setting| setting.since <= major).collect();
        Self { endpoint, given_options, known }
    }

    /// Whom it asks.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One statement that returns one row, to be given to [`ReadBack::settled`].
    pub fn statement(&self) -> String {
        let mut columns: Vec<String> = self
            .known
            .iter()
            .map(|setting| match setting.since {
                0 => format!("pg_catalog.current_setting('{}')", setting.name),
                _ => format!("pg_catalog.set_config('{}', '{}', false)", setting.name, setting.value),
            })
            .collect();
        let followed: Vec<String> = FOLLOWED_SETTINGS.iter().map(|name| format!("'{name}'")).collect();
        columns.push(format!(
            "(SELECT pg_catalog.string_agg(pg_catalog.split_part(o, '=', 1), ',')
              FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN pg_catalog.unnest(s.setconfig) AS o
              WHERE s.setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = SESSION_USER)
                AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
                AND pg_catalog.split_part(o, '=', 1) IN ({}))",
            followed.join(", ")
        ));
        columns.push("pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')::text".to_owned());
        format!("SELECT {}", columns.join(", "))
    }

    /// Judges the row.
    ///
    /// # Errors
    /// A setting is not what was asked for.
    pub fn settled(&self, row: &[Option<String>]) -> Result<Settled, ConnectError> {
        let differing: Vec<String> = self
            .known
            .iter()
            .zip(row)
            .filter(|(setting, found)| found.as_deref() != Some(setting.value))
            .map(|(setting, found)| {
                format!("{} is '{}' and not '{}'", setting.name, found.as_deref().unwrap_or_default(), setting.value)
            })
            .collect();
        if !differing.is_empty() || row.len() != self.known.len() + 2 {
            return Err(ConnectError::Pooled { endpoint: self.endpoint.clone(), differing });
        }
        let own = row[self.known.len()].as_deref().unwrap_or_default();
        let files_are_readable = row[self.known.len() + 1].as_deref() == Some("true");
        // What the connection string asks for is asked for.
        let own: Vec<&str> = own.split(',').filter(|name| !name.is_empty() && !self.given_options.contains(name)).collect();
        Ok(Settled {
            then: (!own.is_empty()).then(|| as_the_database_has_them(&own, files_are_readable)),
            of_the_role: own
                .iter()
                .filter(|name| !files_are_readable && WRITTEN_BY_INITDB.contains(name))
                .map(|&name| name.to_owned())
                .collect(),
        })
    }
}

/// Sets each to what a role without settings of its own has: by database, for all roles, from the files, built in.
fn as_the_database_has_them(names: &[&str], files_are_readable: bool) -> String {
    let set = |&name: &&str| {
        let by_file = if files_are_readable {
            format!(
                "(SELECT setting FROM pg_catalog.pg_file_settings WHERE name = '{name}' AND applied ORDER BY seqno DESC LIMIT 1), "
            )
        } else {
            String::new()
        };
        // Of timezone_abbreviations pg_settings tells no built-in value; pg_timezone_abbrev_initialize (guc.c) makes it Default.
        let built_in =
            if files_are_readable || !WRITTEN_BY_INITDB.contains(&name) { "coalesce(boot_val, 'Default')" } else { "setting" };
        format!(
            "SELECT pg_catalog.set_config('{name}', coalesce((
                 SELECT pg_catalog.substr(o, pg_catalog.strpos(o, '=') + 1)
                 FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN pg_catalog.unnest(s.setconfig) AS o
                 WHERE s.setrole = 0 AND pg_catalog.split_part(o, '=', 1) = '{name}'
                   AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
                 ORDER BY s.setdatabase = 0 LIMIT 1), {by_file}
                 (SELECT {built_in} FROM pg_catalog.pg_settings WHERE name = '{name}')), false)"
        )
    };
    names.iter().map(set).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(read_back: &ReadBack<'_>, own: Option<&str>) -> Vec<Option<String>> {
        let mut row: Vec<Option<String>> = read_back.known.iter().map(|setting| Some(setting.value.to_owned())).collect();
        row.extend([own.map(str::to_owned), Some("false".to_owned())]);
        row
    }

    #[test]
    fn blanks_are_escaped_and_new_names_are_not_sent_blindly() {
        let options = startup_options(Some("-c DateStyle=German"));
        assert!(options.starts_with("-c DateStyle=German -c client_encoding=UTF8 -c DateStyle=ISO,\\ YMD -c"), "{options}");
        assert!(!options.contains("transaction_timeout"), "{options}");
        let statement = |version| ReadBack::new(String::new(), Some(version), "").statement();
        assert!(!statement("16.4 (Debian 16.4-1)").contains("transaction_timeout"));
        assert!(statement("17beta1").contains("set_config('transaction_timeout', '0', false)"));
    }

    #[test]
    fn what_is_not_as_asked_is_refused() {
        let read_back = ReadBack::new("h:5432".to_owned(), Some("18.0"), "");
        assert_eq!(read_back.settled(&row(&read_back, None)).unwrap(), Settled::default());
        let mut other = row(&read_back, None);
        other[1] = Some("ISO, MDY".to_owned());
        let message = read_back.settled(&other).unwrap_err().to_string();
        assert!(message.contains("PgBouncer") && message.contains("DateStyle is 'ISO, MDY' and not 'ISO, YMD'"), "{message}");
        assert!(read_back.settled(&[]).is_err());
    }

    #[test]
    fn what_the_role_has_for_itself_gives_way() {
        let read_back = ReadBack::new(String::new(), Some("15.1"), "-c lc_time=C");
        let settled = read_back.settled(&row(&read_back, Some("xmlbinary,lc_time,lc_monetary"))).unwrap();
        let then = settled.then.unwrap();
        assert!(then.contains("set_config('xmlbinary'") && !then.contains("'lc_time'"), "{then}");
        assert_eq!(settled.of_the_role, ["lc_monetary"]);
    }
}
