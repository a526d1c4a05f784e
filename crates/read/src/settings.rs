//! What can be changed while it runs.

use std::time::Duration;

use crate::cube::Cube;

/// Where rows can come from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The projection's table.
    Projection,
    /// Its materialized view, as old as its last refresh.
    View,
    /// The defining query over the source tables, computed for the request.
    Tables,
}

impl Source {
    /// Every source, best first.
    pub const ALL: [Self; 3] = [Self::Projection, Self::View, Self::Tables];

    /// Its name in configuration, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::View => "view",
            Self::Tables => "tables",
        }
    }

    /// The source of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// What answers a request whose position the projection does not contain in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The source tables.
    Tables,
    /// Nothing: the client is asked to come again.
    Refuse,
}

/// How requests are answered.
#[derive(Debug, Clone)]
pub struct ReadSettings {
    /// The feature flag: without it every request goes to the last source of the chain.
    pub enabled: bool,
    /// The share of requests, by their sticky key, that go through the chain; the others go to its last source. 0 to 100.
    pub rollout_percent: u8,
    /// The sources that are tried, in this order.
    pub chain: Vec<Source>,
    /// Whether a request may choose its source.
    pub allow_forced: bool,
    /// How long all sources together may take.
    pub timeout: Duration,
    /// How long an exact total may be told again for the same filters; zero: every answer counts anew.
    pub total_for: Duration,
    /// How long a request with a position waits for it.
    pub min_lsn_wait: Duration,
    /// What answers when that is not long enough.
    pub min_lsn_miss: Miss,
    /// A projection that was current longer ago than this is tried last.
    pub staleness_max: Option<Duration>,
    /// The text search configuration of requests, as `english`.
    pub text_config: String,
}

impl ReadSettings {
    /// The sources for a request with this sticky key, in the order in which they are tried.
    pub fn chain_for(&self, sticky_key: &str) -> &[Source] {
        if self.enabled && share_of(sticky_key) < u64::from(self.rollout_percent) {
            return &self.chain;
        }
        &self.chain[self.chain.len().saturating_sub(1)..]
    }
}

/// 0 to 99; the same for the same key in every process and version (FNV-1a).
fn share_of(key: &str) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of short keys are not spread well.
    ((hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100
}

/// A projection as it is read.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// The schema of its table and view.
    pub schema: String,
    /// The defining query, as configured.
    pub sql: String,
    /// Whether the query reads projections, so that it runs on the target.
    pub on_target: bool,
    /// The time zone that it is computed and shown in.
    pub time_zone: String,
    /// The declared key.
    pub key: Vec<String>,
    /// What its rows are counted by, if anything.
    pub cube: Option<Cube>,
    /// Whether it answers the product endpoints.
    pub is_products: bool,
    /// Whether it answers searches for items.
    pub is_items: bool,
}
