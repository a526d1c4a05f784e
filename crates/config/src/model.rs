//! A configuration that has been checked.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use croner::Cron;
use lockstep_connect::Settings;
use lockstep_read::ReadSettings;
use lockstep_refresh::OnError;

/// The group of every projection that names none and is not recomputed as a whole.
pub const DEFAULT_GROUP: &str = "default";

/// The projection behind the product endpoints, unless it is said.
pub(crate) const USUAL_PRODUCTS: &str = "product_search";

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
    /// The columns that its rows are counted by, in a cube of its own.
    pub facets: Vec<String>,
    /// Where the configuration names them, for messages.
    pub facets_span: Option<Range<usize>>,
    /// The projection whose cube it is; none in a file.
    pub cube_of: Option<String>,
    /// The projection beside which this one is built as a new version, of which it takes over what has not changed; none in a file.
    pub version_of: Option<String>,
}

impl ProjectionConfig {
    /// Whether it is configured as the other, wherever in the file.
    pub fn is_same(&self, other: &Self) -> bool {
        let without = |config: &Self| Self { time_zone_span: None, facets_span: None, sql_start: None, ..config.clone() };
        without(self) == without(other)
    }
}

impl Config {
    /// The projection that answers for products.
    pub fn products(&self) -> Option<&String> {
        match &self.api {
            Some(api) => api.products.as_ref(),
            None => self.projections.iter().map(|projection| &projection.name).find(|name| *name == USUAL_PRODUCTS),
        }
    }

    /// Whether another configuration differs at most in how requests are answered.
    pub fn is_same_but_for_reading(&self, other: &Self) -> bool {
        let without = |config: &Self| {
            let mut config = Self { api: None, ..config.clone() };
            // Places in the text are of no consequence.
            for projection in &mut config.projections {
                (projection.time_zone_span, projection.facets_span, projection.sql_start) = (None, None, None);
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

/// The read API.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Where it listens; `None` if only `lockstep serve` gives it an address.
    pub listen: Option<SocketAddr>,
    /// Whom it reads the target as, unless as Lockstep.
    pub settings: Option<Settings>,
    /// Sessions at most.
    pub connections: usize,
    /// Requests that compute over the source tables at the same time, at most.
    pub tables_at_once: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Rows of a page at most.
    pub page_max: u32,
    /// The header by which a client takes part in a rollout or not; without it, its address.
    pub rollout_header: String,
    /// Sites whose scripts may read.
    pub cors_origins: Vec<String>,
    /// The projection behind the product endpoints.
    pub products: Option<String>,
    /// The projection whose reads count as searches for items.
    pub items: Option<String>,
    /// How requests are answered.
    pub read: ReadSettings,
    /// Requests that are made whenever a projection has changed.
    pub warm: Vec<WarmConfig>,
}

impl ApiConfig {
    /// What cannot change while it serves and is another in the other, by name.
    pub fn fixed_that_differ(&self, other: &Self) -> Vec<&'static str> {
        let summary = |settings: &Option<Settings>| format!("{settings:?}");
        [
            ("listen", self.listen != other.listen),
            ("url", summary(&self.settings) != summary(&other.settings)),
            ("connections", self.connections != other.connections),
            ("tables_at_once", self.tables_at_once != other.tables_at_once),
            ("cors_origins", self.cors_origins != other.cors_origins),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// A request that is made whenever a projection has changed, so that what it reads is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmConfig {
    /// The projection.
    pub projection: String,
    /// Path and query.
    pub path: String,
}
