//! Queries that lock rows are refused: what follows an application must not stand in its way.

use lockstep_connect::ErrorClass;
use lockstep_plan::facts::View;
use lockstep_plan::{locking_clauses, place_of_table, quote};

use super::error::AnalysisError;

/// Refuses `FOR UPDATE` and its like in a query's text and in the views that it reads. A function that locks rows is VOLATILE, which is
/// refused elsewhere: PostgreSQL lets no other one do it (`CommandIsReadOnly` in its utility.c).
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

fn refusal(message: String, hint: String, position: Option<usize>) -> AnalysisError {
    AnalysisError { message, position, hint: Some(hint), sqlstate: None, class: ErrorClass::Definite }
}
