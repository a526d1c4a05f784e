//! Suggestions while somebody types.

use lockstep_plan::quote;

use crate::select::Statement;
use crate::table::Table;

/// A value that somebody may be about to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The value.
    pub value: String,
    /// Whether it begins with what was typed; else it is similar.
    pub prefix: bool,
}

/// Values that begin with the input, in any case; then, where trigrams are installed, similar ones. `conditions` restrict the rows.
pub(crate) fn sql(table: &Table, from: &str, column: &str, input: &str, condition: Option<&str>, limit: u32) -> Statement {
    let name = format!("t.{}", quote::identifier(column));
    let and = condition.map(|condition| format!(" AND {condition}")).unwrap_or_default();
    let escaped: String =
        input.chars().flat_map(|c| if ['\\', '%', '_'].contains(&c) { vec!['\\', c] } else { vec![c] }).collect();
    let starts = format!(
        "SELECT DISTINCT {name} AS value, true AS prefix, 1::real AS likeness FROM {from} AS t WHERE lower({name}) LIKE lower($1::text) || '%'{and}"
    );
    let similar = table.trigrams.as_ref().map(|schema| {
        format!(
            "\nUNION ALL\nSELECT DISTINCT {name}, false, {schema}.word_similarity($2::text, {name}) FROM {from} AS t
WHERE $2::text OPERATOR({schema}.<%) {name} AND lower({name}) NOT LIKE lower($1::text) || '%'{and}"
        )
    });
    let mut values = vec![escaped];
    if similar.is_some() {
        values.push(input.to_owned());
    }
    let sql = format!(
        "SELECT value::text, prefix FROM ({starts}{}) AS found ORDER BY prefix DESC, likeness DESC, value LIMIT {limit}",
        similar.unwrap_or_default()
    );
    Statement { sql, values }
}
