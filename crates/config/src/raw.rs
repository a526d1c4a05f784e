//! The file as written: keys and their places in the text. Unknown keys are refused.

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) source: Source,
    pub(crate) target: Option<Target>,
    #[serde(default, rename = "group")]
    pub(crate) groups: Vec<Group>,
    #[serde(default, rename = "projection")]
    pub(crate) projections: Vec<Projection>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) time: Option<Time>,
    pub(crate) backstop: Option<Backstop>,
    pub(crate) api: Option<Api>,
    pub(crate) feed: Option<Feed>,
}

/// The read API.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Api {
    pub(crate) listen: Option<Spanned<String>>,
    pub(crate) url: Option<Spanned<String>>,
    pub(crate) password_file: Option<Spanned<String>>,
    pub(crate) connections: Option<Spanned<Number>>,
    pub(crate) tables_at_once: Option<Spanned<Number>>,
    pub(crate) request_timeout_ms: Option<Spanned<Number>>,
    pub(crate) page_max: Option<Spanned<Number>>,
    pub(crate) total_cache_ms: Option<Spanned<Number>>,
    pub(crate) sources: Option<Spanned<Vec<String>>>,
    pub(crate) enabled: Option<bool>,
    pub(crate) rollout_percent: Option<Spanned<Number>>,
    pub(crate) rollout_header: Option<Spanned<String>>,
    pub(crate) allow_source: Option<bool>,
    pub(crate) staleness_max_s: Option<Spanned<Number>>,
    pub(crate) min_lsn_wait_ms: Option<Spanned<Number>>,
    pub(crate) min_lsn_miss: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) cors_origins: Vec<Spanned<String>>,
    pub(crate) text_search: Option<Spanned<String>>,
    pub(crate) products: Option<Spanned<String>>,
    pub(crate) items: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) warm: Vec<Warm>,
}

/// A request that is made whenever a projection has changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Warm {
    pub(crate) projection: Spanned<String>,
    pub(crate) path: Spanned<String>,
}

/// The feed of changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Feed {
    pub(crate) history_s: Option<Spanned<Number>>,
}

/// The schedule behind the read models.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backstop {
    pub(crate) schedule: Option<Spanned<String>>,
    pub(crate) verify: Option<Spanned<String>>,
    pub(crate) statement_timeout_s: Option<Spanned<Number>>,
    pub(crate) lock_timeout_s: Option<Spanned<Number>>,
}

/// How the time is followed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Time {
    pub(crate) resolution_ms: Option<Spanned<Number>>,
    pub(crate) schedule_s: Option<Spanned<Number>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) url: Option<Spanned<String>>,
    pub(crate) password_file: Option<Spanned<String>>,
    pub(crate) slot: Option<Spanned<String>>,
    pub(crate) publication: Option<Spanned<String>>,
    pub(crate) yield_to_ddl_s: Option<Spanned<Number>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) url: Option<Spanned<String>>,
    pub(crate) password_file: Option<Spanned<String>>,
    pub(crate) schema: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) readers: Vec<Spanned<String>>,
    pub(crate) lease_ms: Option<Spanned<Number>>,
    pub(crate) keep_old_s: Option<Spanned<Number>>,
    #[serde(default)]
    pub(crate) make_types: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: Spanned<String>,
    pub(crate) linger_ms: Option<Spanned<Number>>,
}

/// A number, or text that an environment variable turns into one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Literal(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Projection {
    pub(crate) name: Spanned<String>,
    pub(crate) query: Option<Spanned<String>>,
    pub(crate) sql: Option<Spanned<String>>,
    pub(crate) key: Option<Vec<Spanned<String>>>,
    pub(crate) indexes: Option<Spanned<String>>,
    pub(crate) group: Option<Spanned<String>>,
    pub(crate) timezone: Option<Spanned<String>>,
    pub(crate) on_error: Option<Spanned<String>>,
    pub(crate) backstop: Option<bool>,
    pub(crate) feed: Option<bool>,
    pub(crate) facets: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) listen: Option<Spanned<String>>,
}
