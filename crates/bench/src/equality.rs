//! Whether what was measured is right: every table compared with its defining query.

use anyhow::{bail, ensure};
use lockstep_backstop::{Subject, compare, compare_in_one_session};
use lockstep_connect::Session;

use crate::projector::Projector;

/// The columns of a table, and whether their types have an equality.
const COLUMNS: &str =
    "SELECT attname::text, atttypid NOT IN ('json'::regtype, 'xml'::regtype, 'point'::regtype) FROM pg_attribute
    WHERE attrelid = format('%I.%I', $1::text, $2::text)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// Compares every projection of a projector with its query, both ways; the source must stand still. Says how many were compared.
/// What looks at the clock equals its query at no later time: that is left to the program's own verification.
pub(crate) async fn ensure_equal(projector: &mut Projector) -> anyhow::Result<usize> {
    projector.until_contained().await?;
    let subjects = subjects(&projector.target).await?;
    let one_database = identity(&projector.source).await? == identity(&projector.target).await?;
    let (source, target) = (&projector.source, &projector.target);
    ensure!(!subjects.is_empty(), "nothing to compare");
    for subject in &subjects {
        target.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let comparison = if one_database {
            compare_in_one_session(target, subject).await?
        } else {
            source.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
            let comparison = compare(source, target, subject).await?;
            source.batch_execute("ROLLBACK").await?;
            comparison
        };
        target.batch_execute("ROLLBACK").await?;
        if !comparison.is_equal() {
            bail!("{} differs from its query: {comparison:?}", subject.name);
        }
    }
    Ok(subjects.len())
}

async fn subjects(target: &Session) -> anyhow::Result<Vec<Subject>> {
    let listed = "SELECT name, table_schema, definition, coalesce(source ->> 'time_zone', 'UTC') FROM lockstep.projection
                  WHERE part_of IS NULL AND definition !~* '\\mnow\\(|clock_timestamp' ORDER BY name";
    let mut found = Vec::new();
    for row in target.query(listed, &[]).await? {
        let (name, schema): (String, String) = (row.get(0), row.get(1));
        let columns = target.query(COLUMNS, &[&schema, &name]).await?;
        let columns = columns.iter().map(|column| (column.get(0), column.get(1))).collect();
        found.push(Subject { name, schema, query: row.get(2), columns, time_zone: row.get(3) });
    }
    Ok(found)
}

/// Which database of which server.
async fn identity(session: &Session) -> anyhow::Result<(String, i32)> {
    let row = session.query_one("SELECT current_database()::text, current_setting('port')::integer", &[]).await?;
    Ok((row.get(0), row.get(1)))
}
