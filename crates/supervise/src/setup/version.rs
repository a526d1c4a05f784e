//! A projection's versions, as the set-up notes them.

use lockstep_config::ProjectionConfig;
use serde::{Deserialize, Serialize};

/// A projection as it was configured, kept beside it so that it can be maintained after the configuration has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Source {
    sql: String,
    key: Option<Vec<String>>,
    indexes: Option<String>,
    time_zone: String,
}

impl Source {
    pub(crate) fn of(projection: &ProjectionConfig) -> Self {
        Self {
            sql: projection.sql.clone(),
            key: projection.key.clone(),
            indexes: projection.indexes.clone(),
            time_zone: projection.time_zone.clone(),
        }
    }

    pub(crate) fn configured(self, as_now: &ProjectionConfig) -> ProjectionConfig {
        ProjectionConfig {
            query_path: None,
            sql_start: None,
            sql: self.sql,
            key: self.key,
            indexes: self.indexes,
            time_zone: self.time_zone,
            time_zone_span: None,
            ..as_now.clone()
        }
    }
}

/// A new version in the making: its name, whose place it takes, and the fingerprint that it has then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Making {
    pub(crate) name: String,
    pub(crate) replaces: String,
    pub(crate) becomes: String,
    /// It is a block of the old version, which stays, perhaps by another number.
    pub(crate) stays: bool,
    /// Those of one unit take their places together.
    pub(crate) unit: usize,
}
