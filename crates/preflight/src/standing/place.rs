//! Where a target is, and what it says of itself.

use lockstep_connect::Session;
use lockstep_wal::Lsn;
use serde::{Deserialize, Serialize};

/// A database of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The cluster's identifier.
    pub system: String,
    /// The database's oid.
    pub database: i64,
    /// The cluster's timeline.
    pub timeline: i64,
}

impl Place {
    /// Where a session is.
    ///
    /// # Errors
    /// A catalog cannot be read.
    pub async fn of(target: &Session) -> Result<Self, tokio_postgres::Error> {
        let row = target
            .query_one(
                "SELECT (SELECT system_identifier::text FROM pg_control_system()),
                        (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
                        ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint",
                &[],
            )
            .await?;
        Ok(Self { system: row.get(0), database: row.get(1), timeline: row.get(2) })
    }

    /// Whether both are one database, of one cluster or of its standby.
    pub fn is_same_database(&self, other: &Self) -> bool {
        self.system == other.system && self.database == other.database
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "database {} of cluster {}", self.database, self.system)
    }
}

/// What a target's metadata says about itself, of whatever version they are.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Empty before it had one.
    pub id: String,
    /// The slot that it was set up with.
    pub slot: String,
    /// How often somebody has begun to write to it.
    pub epoch: i64,
    /// The source's cluster.
    pub source_system: String,
    /// The source's timeline.
    pub source_timeline: Option<i64>,
    /// The furthest position of the source that is contained.
    pub furthest: Option<Lsn>,
    /// Where it last wrote; `None` before that was recorded.
    pub place: Option<Place>,
}

impl Installation {
    /// Reads it; `None` before anything is set up.
    ///
    /// # Errors
    /// Schema lockstep cannot be read.
    pub async fn load(target: &Session) -> anyhow::Result<Option<Self>> {
        let there: bool = target.query_one("SELECT to_regclass('lockstep.installation') IS NOT NULL", &[]).await?.get(0);
        if !there {
            return Ok(None);
        }
        // Columns that an earlier version lacks are absent from the object.
        let query =
            "SELECT to_jsonb(i), (SELECT max((to_jsonb(c) ->> 'recorded_lsn')::pg_lsn)::text FROM lockstep.checkpoint AS c)
                     FROM lockstep.installation AS i";
        let Some(row) = target.query_opt(query, &[]).await? else { return Ok(None) };
        let object: serde_json::Value = row.get(0);
        let text = |name: &str| object[name].as_str().map(str::to_owned);
        let number = |name: &str| object[name].as_i64();
        let place = match (text("target_system"), number("target_database"), number("target_timeline")) {
            (Some(system), Some(database), Some(timeline)) => Some(Place { system, database, timeline }),
            _ => None,
        };
        Ok(Some(Self {
            id: text("id").unwrap_or_default(),
            slot: text("slot").unwrap_or_default(),
            epoch: number("leader_epoch").unwrap_or_default(),
            source_system: text("system_identifier").unwrap_or_default(),
            source_timeline: number("timeline"),
            furthest: row.get::<_, Option<&str>>(1).and_then(|text| text.parse().ok()),
            place,
        }))
    }
}
