//! The file as written: keys and their places in the text. Unknown keys are refused.

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) source: Source,
    pub(super) target: Option<Target>,
    #[serde(default, rename = "group")]
    pub(super) groups: Vec<Group>,
    #[serde(default, rename = "projection")]
    pub(super) projections: Vec<Projection>,
    pub(super) metrics: Option<Metrics>,
    pub(super) time: Option<Time>,
    pub(super) backstop: Option<Backstop>,
    pub(super) api: Option<Api>,
    pub(super) feed: Option<Feed>,
}

/// The read API.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) connections: Option<Spanned<Number>>,
    pub(super) tables_at_once: Option<Spanned<Number>>,
    pub(super) request_timeout_ms: Option<Spanned<Number>>,
    pub(super) page_max: Option<Spanned<Number>>,
    pub(super) total_cache_ms: Option<Spanned<Number>>,
    pub(super) sources: Option<Spanned<Vec<String>>>,
    pub(super) enabled: Option<bool>,
    pub(super) rollout_percent: Option<Spanned<Number>>,
    pub(super) rollout_header: Option<Spanned<String>>,
    pub(super) allow_source: Option<bool>,
    pub(super) staleness_max_s: Option<Spanned<Number>>,
    pub(super) min_lsn_wait_ms: Option<Spanned<Number>>,
    pub(super) min_lsn_miss: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) cors_origins: Vec<Spanned<String>>,
    pub(super) text_search: Option<Spanned<String>>,
    pub(super) products: Option<Spanned<String>>,
    pub(super) items: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) warm: Vec<Warm>,
}

/// A request that is made whenever a projection has changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Warm {
    pub(super) projection: Spanned<String>,
    pub(super) path: Spanned<String>,
}

/// The feed of changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feed {
    pub(super) history_s: Option<Spanned<Number>>,
}

/// The schedule behind the read models.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backstop {
    pub(super) schedule: Option<Spanned<String>>,
    pub(super) verify: Option<Spanned<String>>,
    pub(super) statement_timeout_s: Option<Spanned<Number>>,
    pub(super) lock_timeout_s: Option<Spanned<Number>>,
}

/// How the time is followed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Time {
    pub(super) resolution_ms: Option<Spanned<Number>>,
    pub(super) schedule_s: Option<Spanned<Number>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) url: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) slot: Option<Spanned<String>>,
    pub(super) publication: Option<Spanned<String>>,
    pub(super) yield_to_ddl_s: Option<Spanned<Number>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) url: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) schema: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) readers: Vec<Spanned<String>>,
    pub(super) lease_ms: Option<Spanned<Number>>,
    pub(super) keep_old_s: Option<Spanned<Number>>,
    #[serde(default)]
    pub(super) make_types: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: Spanned<String>,
    pub(super) linger_ms: Option<Spanned<Number>>,
}

/// A number, or text that an environment variable turns into one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Number {
    Literal(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Projection {
    pub(super) name: Spanned<String>,
    pub(super) query: Option<Spanned<String>>,
    pub(super) sql: Option<Spanned<String>>,
    pub(super) key: Option<Vec<Spanned<String>>>,
    pub(super) indexes: Option<Spanned<String>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) timezone: Option<Spanned<String>>,
    pub(super) on_error: Option<Spanned<String>>,
    pub(super) backstop: Option<bool>,
    pub(super) feed: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<Spanned<String>>,
}
