//! Tables with REPLICA IDENTITY FULL although they have a key: their rows are sent whole, old and new.
//!
//! A column list could make the stream narrow, but PostgreSQL refuses to update a table whose list does not cover its replica identity
//! (`pub_rf_contains_invalid_column` and its like, `publicationcmds.c`), which with FULL is every column. So only the table's owner can
//! change it.

use lockstep_connect::Session;

use crate::attribution::relation_subject;
use crate::remedy::{By, Remedy};
use crate::report::{Depth, Preflight};

/// Tells of them, and notes the statements.
pub(crate) async fn look(depth: Depth, source: &Session, preflight: &mut Preflight) {
    let tables: Vec<u32> = preflight.tracked.iter().map(|relation| relation.oid).collect();
    let found = source
        .query(
            "SELECT concat(n.nspname, '.', c.relname), format('ALTER TABLE %I.%I REPLICA IDENTITY DEFAULT;', l.nspname, l.relname),
                    pg_get_userbyid(l.relowner)::text
             FROM unnest($1::oid[]) AS t (oid) JOIN pg_class AS c ON c.oid = t.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
             CROSS JOIN LATERAL (
                 SELECT p.relname, p.relowner, s.nspname FROM pg_class AS p JOIN pg_namespace AS s ON s.oid = p.relnamespace
                 WHERE (p.oid = t.oid OR p.oid IN (SELECT relid FROM pg_partition_tree(t.oid))) AND p.relreplident = 'f'
                   AND EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = p.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)
             ) AS l ORDER BY 1, 2",
            &[&tables],
        )
        .await;
    let rows = match found {
        Ok(rows) => rows,
        Err(error) => return preflight.error("source", lockstep_connect::describe(&error), "catalogs must be readable"),
    };
    for row in &rows {
        let (root, statement, owner): (&str, String, String) = (row.get(0), row.get(1), row.get(2));
        if depth == Depth::Full {
            preflight.warn(
                relation_subject(root),
                "it has a primary key and REPLICA IDENTITY FULL: old and new rows are sent whole instead of their keys, and a row of \
                 some 500 MB ends the stream",
                Remedy::sql(&By::Owner(owner), [&statement])
                    .optional()
                    .note("unless somebody else reads old values from a stream"),
            );
        }
        preflight.whole_rows.push(statement);
    }
}
