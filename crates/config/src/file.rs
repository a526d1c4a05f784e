//! The file as a whole.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use croner::Cron;
use toml::Spanned;

use crate::diagnostic::Diagnostic;
use crate::model::{BackstopConfig, Config, GroupConfig, Listen};
use crate::nearest::nearest;
use crate::raw;
use crate::reader::{Environment, Outcome, Reader};

/// How long the application's DDL waits behind us.
const DEFAULT_YIELD_TO_DDL: Duration = Duration::from_secs(1);

/// A leader that is silent for so long has lost its place.
const DEFAULT_LEASE: Duration = Duration::from_secs(5);

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
}

/// The key that an unknown one may have been meant to be: serde says which are known, between backticks.
fn meant_key(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    nearest(quoted.next()?, quoted)
}

impl Reader<'_> {
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
            schema: schema.clone(),
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
            projections: projections.iter().flat_map(|one| std::iter::once(one.clone()).chain(one.cube(&schema))).collect(),
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
