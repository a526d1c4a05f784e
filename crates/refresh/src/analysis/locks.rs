//! Queries that lock or write rows are refused: what follows an application must not stand in its way.

use lockstep_connect::ErrorClass;
use lockstep_plan::facts::{Function, View};
use lockstep_plan::{locking_clauses, place_of_call, place_of_table, quote};
use tokio_postgres::Client;

use super::error::AnalysisError;
use super::reached::{Bodies, reached};

/// Functions that lock or write, by their text without comments. Only a VOLATILE one can (`CommandIsReadOnly` in PostgreSQL's utility.c),
/// and a trigger's is not called by queries. What a compiled function does is not to be seen.
const WRITERS: &str = r"
    SELECT p.oid FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.oid >= 16384 AND p.provolatile = 'v' AND l.lanname NOT IN ('internal', 'c')
      AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
      AND regexp_replace(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), '--[^\n]*|/\*.*?\*/', ' ', 'g')
          ~* '\m(for\s+(no\s+key\s+)?update|for\s+(key\s+)?share|insert\s+into|update\s[^;]*\sset|delete\s+from|merge\s+into|truncate|lock|copy|create|alter|drop|refresh|nextval|setval)\M'";

/// Refuses `FOR UPDATE` and its like in a query's text and in the views that it reads. Functions: [`refuse_writers`].
pub(super) fn refuse(sql: &str, views: &[View]) -> Result<(), AnalysisError> {
    let characters = |bytes: usize| sql.get(..bytes).map(|before| before.chars().count());
    if let Some(range) = locking_clauses(sql).first() {
        let words = &sql[range.clone()];
        let message = format!("it locks rows of the application ({words})");
        return Err(refusal(message, format!("delete the words {words}: a projection only reads"), characters(range.start)));
    }
    for view in views {
        if let Some(range) = locking_clauses(&view.sql).first() {
            let (words, name) = (&view.sql[range.clone()], quote::qualified(&view.schema, &view.name));
            let message =
                format!("it reads the view {}.{}, which locks rows of the application ({words})", view.schema, view.name);
            let hint = format!("CREATE OR REPLACE VIEW {name} AS its query without {words}; or read its tables");
            return Err(refusal(message, hint, place_of_table(sql, &view.schema, &view.name).and_then(characters)));
        }
    }
    Ok(())
}

/// Refuses a query whose functions, however deep, call one that locks or writes. One that the query itself calls is VOLATILE, which is
/// refused elsewhere; a STABLE one may call it all the same.
pub(super) async fn refuse_writers(client: &Client, view: u32, sql: &str, functions: &[Function]) -> Result<(), AnalysisError> {
    let writers: Vec<u32> = client.query(WRITERS, &[]).await?.iter().map(|row| row.get(0)).collect();
    let called: Vec<u32> = functions.iter().map(|function| function.oid).collect();
    let hidden: Vec<u32> = writers.into_iter().filter(|writer| !called.contains(writer)).collect();
    if hidden.is_empty() {
        return Ok(());
    }
    let found = client
        .query_opt(
            &format!(
                "{} SELECT k.object::regprocedure::text FROM reached AS k
                 WHERE k.class = 'pg_proc'::regclass AND k.object = ANY ($2) ORDER BY 1 LIMIT 1",
                reached(Bodies::Calls)
            ),
            &[&view, &hidden],
        )
        .await?;
    let Some(found) = found else { return Ok(()) };
    let writer: &str = found.get(0);
    let characters = |bytes: usize| sql.get(..bytes).map(|before| before.chars().count());
    let mut own = functions.iter().filter(|function| function.oid >= FIRST_NORMAL_OBJECT_ID);
    let position = own.find_map(|function| place_of_call(sql, &function.name)).and_then(characters);
    let message = format!("a function that it calls calls {writer}, which is volatile and locks or writes rows");
    Err(refusal(message, format!("let the function do without {writer}: a projection only reads"), position))
}

/// What the installation did not bring along (`access/transam.h`).
const FIRST_NORMAL_OBJECT_ID: u32 = 16384;

fn refusal(message: String, hint: String, position: Option<usize>) -> AnalysisError {
    AnalysisError { message, position, hint: Some(hint), sqlstate: None, class: ErrorClass::Definite }
}
