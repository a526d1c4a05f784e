//! Where a projection is: what entity tags, staleness and positions of answers come from.

use lockstep_plan::quote;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::settings::{Model, ReadSettings};
use crate::table::Table;

/// Where a projection was when it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version {
    /// Changes with every batch and every definition.
    pub tag: String,
    /// How long ago it was known to be current, in seconds.
    pub staleness_seconds: Option<f64>,
    /// The position that it contains.
    pub lsn: Option<String>,
}

/// What is known of a source before it is read.
pub(crate) struct Found {
    pub(crate) version: Version,
    pub(crate) is_built: bool,
    pub(crate) is_faulted: bool,
    /// Its cube can be asked: it is where the projection is, and counts by what is configured.
    pub(crate) has_cube: bool,
}

impl Found {
    /// Set aside, or older than is wanted.
    pub(crate) fn is_stale(&self, settings: &ReadSettings) -> bool {
        let seconds = self.version.staleness_seconds.unwrap_or(f64::MAX);
        self.is_faulted || settings.staleness_max.is_some_and(|max| seconds > max.as_secs_f64())
    }
}

pub(crate) async fn version(client: &Client, model: &Model) -> Result<Found, tokio_postgres::Error> {
    let (cube, columns) = model.cube.as_ref().map(|cube| (&cube.name, &cube.columns)).unzip();
    let table = cube.map(|cube| quote::qualified(&model.schema, cube));
    let rows = client
        .query_typed(
            "SELECT concat_ws(' ', p.fingerprint, c.leader_epoch, c.batches, c.snapshot), extract(epoch FROM clock_timestamp() - c.current_as_of)::float8,
                    c.lsn::text, p.built_at IS NOT NULL, p.state = 'faulted',
                    EXISTS (SELECT FROM lockstep.projection AS k WHERE k.name = $2 AND k.state = 'live' AND k.group_name = p.group_name)
                    AND NOT EXISTS (SELECT FROM unnest($3::text[]) AS f (name)
                                    WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($4) AND attname = f.name))
             FROM lockstep.projection AS p JOIN lockstep.checkpoint AS c USING (group_name) WHERE p.name = $1",
            &[(&model.name, Type::TEXT), (&cube, Type::TEXT), (&columns, Type::TEXT_ARRAY), (&table, Type::TEXT)],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Found { version: Version::default(), is_built: false, is_faulted: false, has_cube: false });
    };
    // What is set aside is not where its group is.
    let is_faulted: bool = row.get(4);
    let staleness = row.get::<_, Option<f64>>(1).filter(|_| !is_faulted).map(|seconds| seconds.max(0.0));
    let lsn = row.get::<_, Option<_>>(2).filter(|_| !is_faulted);
    let version = Version { tag: row.get(0), staleness_seconds: staleness, lsn };
    Ok(Found { version, is_built: row.get(3), is_faulted, has_cube: row.get(5) })
}

pub(crate) async fn view_version(client: &Client, model: &Model) -> Result<Found, tokio_postgres::Error> {
    let view = format!("mv_{}", model.name);
    let rows = client
        .query_typed(
            "SELECT extract(epoch FROM clock_timestamp() - max(last_refresh_at))::float8 FROM lockstep.mv_refresh_log WHERE view = $1 AND success",
            &[(&view, Type::TEXT)],
        )
        .await?;
    let staleness_seconds = rows.first().and_then(|row| row.get(0));
    let version = Version { staleness_seconds, ..Version::default() };
    Ok(Found { version, is_built: true, is_faulted: false, has_cube: false })
}

/// An HTTP entity tag: of the version, of what was asked for, and of everything else that the answer depends on.
pub(crate) fn tag(version: &str, identity: &str, model: &Model, settings: &ReadSettings, table: &Table) -> String {
    let (zone, text, trigrams) = (&model.time_zone, &settings.text_config, &table.trigrams);
    let digest = Sha256::digest(format!("{version}\n{identity}\n{zone}\n{text}\n{trigrams:?}"));
    let hexadecimal: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("W/\"{hexadecimal}\"")
}
