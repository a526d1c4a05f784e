//! How large the tables of plans are by now.

use std::collections::BTreeMap;

use lockstep_config::Config;
use lockstep_connect::Session;

use crate::report::Planned;

/// Rows and bytes of the tables that are there, by schema and name.
#[derive(Debug, Clone, Default)]
pub struct Sizes(BTreeMap<(String, String), Size>);

/// How large a table is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Its rows: counted for a projection or a block, PostgreSQL's estimate for hidden state, if it has one.
    pub(crate) rows: Option<i64>,
    /// With its indexes and what is stored beside it.
    pub(crate) bytes: i64,
}

impl Sizes {
    pub(crate) fn of(&self, schema: &str, table: &str) -> Option<Size> {
        self.0.get(&(schema.to_owned(), table.to_owned())).copied()
    }
}

/// The sizes of the tables of some plans. Where nothing is built, or the target cannot be asked, there are none.
pub async fn sizes(config: &Config, planned: &[&Planned]) -> Sizes {
    match asked(config, planned).await {
        Ok(sizes) => sizes,
        Err(error) => {
            tracing::debug!(error = format!("{error:#}"), "the sizes of tables are not known");
            Sizes::default()
        }
    }
}

async fn asked(config: &Config, planned: &[&Planned]) -> anyhow::Result<Sizes> {
    let target = Session::open(config.target_settings(), "lockstep plan").await?;
    let there: bool = target.query_one("SELECT to_regclass('lockstep.projection') IS NOT NULL", &[]).await?.get(0);
    if !there {
        return Ok(Sizes::default());
    }
    let states = planned.iter().flat_map(|one| one.plan.state_tables()).map(|state| ("lockstep".to_owned(), state.name.clone()));
    let (schemas, names): (Vec<String>, Vec<String>) =
        planned.iter().map(|one| (one.schema.clone(), one.name())).chain(states).unzip();
    let rows = target
        .query(
            "SELECT n.nspname::text, c.relname::text, coalesce(p.row_count, CASE WHEN p.name IS NULL AND c.reltuples >= 0 THEN c.reltuples::bigint END),
                    pg_total_relation_size(c.oid)
             FROM unnest($1::text[], $2::text[]) AS t (schema, name)
             JOIN pg_namespace AS n ON n.nspname = t.schema
             JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind = 'r'
             LEFT JOIN lockstep.projection AS p ON (p.table_schema, p.name) = (t.schema, t.name)",
            &[&schemas, &names],
        )
        .await?;
    // One that is dropped meanwhile has no size.
    let size = |row: &tokio_postgres::Row| {
        Some(((row.get(0), row.get(1)), Size { rows: row.get(2), bytes: row.get::<_, Option<i64>>(3)? }))
    };
    Ok(Sizes(rows.iter().filter_map(size).collect()))
}
