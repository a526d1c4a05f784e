//! Configuration in two steps: the file as written ([`raw`]), then checked and resolved ([`Config`]).

mod api;
mod connection;
mod projection;
mod raw;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use croner::Cron;
use lockstep_connect::Settings;
use lockstep_refresh::OnError;
use toml::Spanned;

pub use api::{ApiConfig, WarmConfig};

use crate::diagnostic::Diagnostic;
use crate::nearest::nearest;

/// The group of every projection that names none and is not recomputed as a whole.
pub const DEFAULT_GROUP: &str = "default";

/// How long the application's DDL waits behind us.
const DEFAULT_YIELD_TO_DDL: Duration = Duration::from_secs(1);

/// A leader that is silent for so long has lost its place.
const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// Hidden state is named after the projection, and PostgreSQL's names have at most 63 bytes.
const NAME_BYTES_MAX: usize = 38;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// The source.
    pub source: Settings,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// How long the application's DDL waits behind what reads for long, before that is let go; zero: for as long as it takes.
    pub yield_to_ddl: Duration,
    /// The target, unless it is the source's database.
    pub target: Option<Settings>,
    /// The schema of the read models.
    pub schema: String,
    /// Roles that may read them.
    pub readers: Vec<String>,
    /// Whether enums and domains of the source are made in another database.
    pub make_types: bool,
    /// How long the instance that writes may be silent before another one takes over.
    pub lease: Duration,
    /// How long the old version of a projection is kept after a new one has taken its place.
    pub keep_old: Duration,
    /// Drop what is no longer configured.
    pub prune: bool,
    /// The groups that are configured.
    pub groups: Vec<GroupConfig>,
    /// The projections.
    pub projections: Vec<ProjectionConfig>,
    /// Where metrics are served; `None` for nowhere.
    pub metrics: Option<Listen>,
    /// The schedule behind the read models, if there is one.
    pub backstop: Option<BackstopConfig>,
    /// The read API, if it is served.
    pub api: Option<ApiConfig>,
    /// How long changes are remembered for those who follow them; `None` without a feed.
    pub feed_history: Option<Duration>,
    /// How often to look for rows that come or go with the time, if that is configured.
    pub time_resolution: Option<Duration>,
    /// How often to recompute projections that depend on the time as a whole, if that is configured.
    pub time_schedule: Option<Duration>,
}

/// The schedule behind the read models. Times are UTC.
#[derive(Debug, Clone)]
pub struct BackstopConfig {
    /// When materialized views are refreshed and compared.
    pub refresh: Option<Cron>,
    /// When everything is verified.
    pub verify: Option<Cron>,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// Whether somebody wrote it: then it must work.
    pub configured: bool,
}

/// A group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Its name.
    pub name: String,
    /// How long to gather more changes after the first.
    pub linger: Duration,
}

/// A projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectionConfig {
    /// Its name, and its table's.
    pub name: String,
    /// The file that holds the query; `None` if it is written in the configuration.
    pub query_path: Option<PathBuf>,
    /// The query.
    pub sql: String,
    /// The declared key.
    pub key: Option<Vec<String>>,
    /// Statements that create the indexes.
    pub indexes: Option<String>,
    /// The group it names.
    pub group: Option<String>,
    /// Whether the backstop looks after it.
    pub backstop: bool,
    /// Whether its changes are told.
    pub feed: bool,
    /// What becomes of the row of a key that fails.
    pub on_error: OnError,
    /// The time zone that its query is computed in.
    pub time_zone: String,
    /// Where the configuration says so, for messages.
    pub time_zone_span: Option<Range<usize>>,
    /// Where a query that is written in the configuration begins in it, for messages.
    pub sql_start: Option<usize>,
}

impl ProjectionConfig {
    /// Whether it is configured as the other, wherever in the file.
    pub fn is_same(&self, other: &Self) -> bool {
        let without = |config: &Self| Self { time_zone_span: None, sql_start: None, ..config.clone() };
        without(self) == without(other)
    }
}

/// Reads variables; tests pass their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Loads a file with the process's environment.
    ///
    /// # Errors
    /// A diagnostic with the place in the file.
    pub fn load(path: &Path) -> Result<Self, Box<Diagnostic>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Box::new(Diagnostic::error(format!("cannot read the configuration {}: {error}", path.display())).help(
                "lockstep init --url URL writes one; -c FILE names another; config/lockstep.example.toml is a documented example",
            ))
        })?;
        Self::parse(path, &text, &|name| std::env::var(name).ok())
    }

    /// Checks a configuration's text. Files are looked up relative to `path`.
    ///
    /// # Errors
    /// A diagnostic with the place in the text.
    pub fn parse(path: &Path, text: &str, environment: Environment<'_>) -> Result<Self, Box<Diagnostic>> {
        let file: raw::File = toml::from_str(text).map_err(|error| {
            let mut diagnostic = Diagnostic::error(error.message().to_owned());
            if let Some(meant) = meant_key(error.message()) {
                diagnostic = diagnostic.help(format!("did you mean \"{meant}\"?"));
            }
            Box::new(match error.span() {
                Some(span) => diagnostic.at(path, text, span),
                None => diagnostic,
            })
        })?;
        Reader { path, text, environment }.config(&file)
    }

    /// The projection that answers for products.
    pub fn products(&self) -> Option<&String> {
        match &self.api {
            Some(api) => api.products.as_ref(),
            None => self.projections.iter().map(|projection| &projection.name).find(|name| *name == api::USUAL_PRODUCTS),
        }
    }

    /// Whether another configuration differs at most in how requests are answered.
    pub fn is_same_but_for_reading(&self, other: &Self) -> bool {
        let without = |config: &Self| {
            let mut config = Self { api: None, ..config.clone() };
            // Places in the text are of no consequence.
            for projection in &mut config.projections {
                (projection.time_zone_span, projection.sql_start) = (None, None);
            }
            // It is bound once.
            config.metrics = None;
            format!("{config:?}")
        };
        without(self) == without(other)
    }

    /// Whether another configuration leads to the same source, by the same slot, and to the same target: what runs can go on.
    pub fn is_same_installation(&self, other: &Self) -> bool {
        let servers = |config: &Self| {
            // It differs wherever the settings do.
            let one = |settings: &Settings| format!("{settings:?}");
            (one(&config.source), config.target.as_ref().map(one))
        };
        let names = |config: &Self| (config.slot.clone(), config.publication.clone(), config.schema.clone(), config.lease);
        servers(self) == servers(other) && names(self) == names(other)
    }

    /// The target's settings.
    pub fn target_settings(&self) -> &Settings {
        self.target.as_ref().unwrap_or(&self.source)
    }
}

/// The key that an unknown one may have been meant to be: serde says which are known, between backticks.
fn meant_key(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    nearest(quoted.next()?, quoted)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    environment: Environment<'a>,
}

type Outcome<T> = Result<T, Box<Diagnostic>>;

impl Reader<'_> {
    fn fail<T>(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Outcome<T> {
        Err(Box::new(Diagnostic::error(message).at(self.path, self.text, span).help(help)))
    }

    fn config(&self, file: &raw::File) -> Outcome<Config> {
        let source = self.settings(file.source.url.as_ref(), file.source.password_file.as_ref())?;
        let target = match &file.target {
            Some(target) if target.url.is_some() => {
                let settings = self.settings(target.url.as_ref(), target.password_file.as_ref())?;
                (!settings.same_database(&source)).then_some(settings)
            }
            Some(raw::Target { password_file: Some(file), .. }) => {
                return self.fail(
                    file.span(),
                    "a password_file without a url",
                    "[source] password_file is for the source's database",
                );
            }
            Some(_) | None => None,
        };
        let groups = file.groups.iter().map(|group| self.group(group)).collect::<Outcome<Vec<_>>>()?;
        let projections = file
            .projections
            .iter()
            .map(|projection| self.projection(projection, &groups, file.feed.is_some()))
            .collect::<Outcome<Vec<_>>>()?;
        for (index, projection) in file.projections.iter().enumerate() {
            if projections[..index].iter().any(|earlier| earlier.name == projections[index].name) {
                return self.fail(
                    projection.name.span(),
                    "a second projection of this name",
                    "projection names are table names: choose another",
                );
            }
        }
        if projections.is_empty() {
            return self.fail(0..0, "no [[projection]] is configured", "add one: [[projection]] with name and query");
        }
        let metrics = self.listen(file.metrics.as_ref())?;
        let time = file.time.as_ref();
        let table = file.target.as_ref();
        let (schema, readers) = match table {
            Some(target) => (self.name_or(target.schema.as_ref(), "read_model")?, self.texts(&target.readers)?),
            None => ("read_model".to_owned(), Vec::new()),
        };
        Ok(Config {
            path: self.path.to_owned(),
            slot: self.slot_name(file.source.slot.as_ref())?,
            publication: self.name_or(file.source.publication.as_ref(), "lockstep")?,
            yield_to_ddl: self
                .duration(file.source.yield_to_ddl_s.as_ref(), 1_000, 0..=3_600, "yield_to_ddl_s")?
                .unwrap_or(DEFAULT_YIELD_TO_DDL),
            source,
            target,
            schema,
            readers,
            make_types: table.is_some_and(|table| table.make_types),
            lease: self
                .duration(table.and_then(|table| table.lease_ms.as_ref()), 1, 500..=60_000, "lease_ms")?
                .unwrap_or(DEFAULT_LEASE),
            keep_old: self
                .duration(table.and_then(|table| table.keep_old_s.as_ref()), 1_000, 0..=31_536_000, "keep_old_s")?
                .unwrap_or_default(),
            prune: false,
            groups,
            projections: projections.clone(),
            metrics,
            api: file.api.as_ref().map(|api| self.api(api, &projections)).transpose()?,
            feed_history: self.feed(file.feed.as_ref())?,
            backstop: file.backstop.as_ref().map(|backstop| self.backstop(backstop)).transpose()?,
            time_resolution: self.duration(
                time.and_then(|time| time.resolution_ms.as_ref()),
                1,
                10..=3_600_000,
                "resolution_ms",
            )?,
            time_schedule: self.duration(time.and_then(|time| time.schedule_s.as_ref()), 1_000, 1..=86_400, "schedule_s")?,
        })
    }

    fn name_or(&self, value: Option<&Spanned<String>>, default: &str) -> Outcome<String> {
        let Some(value) = value else { return Ok(default.to_owned()) };
        let name = self.expand(value)?;
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return self.fail(value.span(), "not a name that PostgreSQL accepts", "use 1 to 63 bytes");
        }
        Ok(name)
    }

    fn slot_name(&self, value: Option<&Spanned<String>>) -> Outcome<String> {
        let name = self.name_or(value, "lockstep")?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        match value {
            Some(value) if !name.bytes().all(allowed) => {
                self.fail(value.span(), "not a slot name", "slot names have lower-case letters, digits and underscores only")
            }
            Some(_) | None => Ok(name),
        }
    }

    fn group(&self, group: &raw::Group) -> Outcome<GroupConfig> {
        let linger = self.duration(group.linger_ms.as_ref(), 1, 0..=60_000, "linger_ms")?.unwrap_or_default();
        Ok(GroupConfig { name: self.expand(&group.name)?, linger })
    }

    fn backstop(&self, backstop: &raw::Backstop) -> Outcome<BackstopConfig> {
        let limit = |value, default, name| -> Outcome<Duration> {
            Ok(self.duration(value, 1_000, 1..=86_400, name)?.unwrap_or(Duration::from_secs(default)))
        };
        Ok(BackstopConfig {
            refresh: backstop.schedule.as_ref().map(|schedule| self.cron(schedule)).transpose()?,
            verify: backstop.verify.as_ref().map(|schedule| self.cron(schedule)).transpose()?,
            statement_timeout: limit(backstop.statement_timeout_s.as_ref(), 3_600, "statement_timeout_s")?,
            lock_timeout: limit(backstop.lock_timeout_s.as_ref(), 10, "lock_timeout_s")?,
        })
    }

    fn cron(&self, schedule: &Spanned<String>) -> Outcome<Cron> {
        let example = "for example \"*/10 * * * *\", every ten minutes";
        let cron: Cron = self.expand(schedule)?.parse().or_else(|error: croner::errors::CronError| {
            self.fail(schedule.span(), format!("not a schedule: {error}"), example)
        })?;
        if cron.find_next_occurrence(&jiff::Zoned::now(), false).is_err() {
            return self.fail(schedule.span(), "a schedule that never comes", example);
        }
        Ok(cron)
    }

    /// A number of units of so many milliseconds.
    fn duration(
        &self,
        value: Option<&Spanned<raw::Number>>,
        unit_ms: u64,
        allowed: std::ops::RangeInclusive<u64>,
        name: &str,
    ) -> Outcome<Option<Duration>> {
        let Some(value) = value else { return Ok(None) };
        let number = match value.get_ref() {
            raw::Number::Literal(number) => Some(*number),
            raw::Number::Text(text) => self.expand(&Spanned::new(value.span(), text.clone()))?.parse().ok(),
        };
        match number.filter(|number| allowed.contains(number)) {
            Some(number) => Ok(Some(Duration::from_millis(number * unit_ms))),
            None => self.fail(
                value.span(),
                format!("{name} is not a number from {} to {}", allowed.start(), allowed.end()),
                format!("for example {name} = {}", if unit_ms == 1 { 1000.min(*allowed.end()) } else { 60 }),
            ),
        }
    }

    fn listen(&self, metrics: Option<&raw::Metrics>) -> Outcome<Option<Listen>> {
        let Some(value) = metrics.and_then(|metrics| metrics.listen.as_ref()) else {
            return Ok(Some(Listen { address: SocketAddr::from(([127, 0, 0, 1], 9187)), configured: false }));
        };
        let text = self.expand(value)?;
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse() {
            Ok(address) => Ok(Some(Listen { address, configured: true })),
            Err(_) => self.fail(value.span(), "not an address to listen on", "for example \"127.0.0.1:9187\", or \"\" for none"),
        }
    }
}

#[cfg(test)]
mod tests;
