//! What is staged for a projection between two databases.

use lockstep_plan::emit::Places;
use lockstep_plan::{Maintenance, quote};

use crate::error::{BatchError, Side};
use crate::projection::Projection;
use crate::sessions::Sessions;
use crate::transfer::Stage;

/// The stages of a projection, described by what is to be staged: rows, or contributions of each branch.
pub(crate) async fn stages_of(
    projection: &Projection,
    index: usize,
    places: &Places,
    sessions: &Sessions,
) -> Result<Vec<Stage>, BatchError> {
    let at = |side| move |error| BatchError::Sql { side, error, projection: Some(index) };
    let own_table = || quote::qualified(&projection.schema, projection.name());
    let staged: Vec<(&str, String)> = match &projection.plan.maintenance {
        Maintenance::Row(row) => vec![(&row.query, own_table())],
        Maintenance::Whole(_) => vec![(&projection.plan.query, own_table())],
        Maintenance::Grouped(grouped) => grouped
            .branches
            .iter()
            .filter_map(|branch| {
                let state = branch.contributions.as_ref()?;
                Some((branch.query.as_str(), quote::qualified(&places.state_schema, &state.name)))
            })
            .collect(),
    };
    let mut stages = Vec::with_capacity(staged.len());
    for (number, (query, table)) in staged.into_iter().enumerate() {
        let rows = sessions
            .target()
            .query(
                "SELECT attname::text, format_type(atttypid, atttypmod),
                        (WITH RECURSIVE chain (oid, typmod) AS (
                             SELECT typbasetype, typtypmod FROM pg_type WHERE oid = atttypid AND typtype = 'd'
                             UNION ALL
                             SELECT typbasetype, CASE typmod WHEN -1 THEN typtypmod ELSE typmod END
                             FROM chain JOIN pg_type AS inner_type ON inner_type.oid = chain.oid WHERE typtype = 'd'
                         )
                         SELECT format_type(oid, typmod) FROM chain JOIN pg_type AS base USING (oid) WHERE base.typtype <> 'd')
                 FROM pg_attribute
                 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&table],
            )
            .await
            .map_err(at(Side::Target))?;
        let columns = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2)));
        let name = format!("{index}_{number}");
        stages.push(Stage::describe(sessions.source(), &name, query, columns).await.map_err(at(Side::Source))?);
    }
    Ok(stages)
}
