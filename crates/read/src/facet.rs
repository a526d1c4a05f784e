//! Facets: the values of a column with their counts, filtered like the list itself.

use crate::condition::where_clause;
use crate::cube::Counted;
use crate::table::Column;

/// Values that are told; the rest is left out.
const VALUES_MAX: u32 = 50;

/// Steps of a histogram.
const STEPS: u32 = 10;

/// One JSON value. Numbers get a histogram of equal steps between their least and greatest; other types their most frequent values.
pub(crate) fn sql(column: &Column, counted: &Counted, conditions: &[String]) -> String {
    let (from, weight, carried, number) = (counted.from(), counted.weight(), counted.carried(), counted.number());
    let name = column.value();
    let filtered = where_clause(conditions);
    if column.is_number() {
        return format!(
            "WITH found AS MATERIALIZED (SELECT {name}::numeric AS value{weight} FROM {from} AS t{filtered}),
ends AS (SELECT min(value) AS low, max(value) AS high FROM found WHERE value NOT IN ('NaN', 'Infinity', '-Infinity')),
stepped AS (SELECT CASE WHEN low = high THEN 1 ELSE least(width_bucket(value, low, high, {STEPS}), {STEPS}) END AS step, value{carried}
            FROM found, ends WHERE value BETWEEN low AND high),
counted AS (SELECT step, min(value) AS low, max(value) AS high, {number} AS count FROM stepped GROUP BY step)
SELECT json_build_object('min', (SELECT low FROM ends), 'max', (SELECT high FROM ends),
    'missing', (SELECT {number} FROM found WHERE value IS NULL),
    'ranges', coalesce((SELECT json_agg(json_build_object('from', low, 'to', high, 'count', count) ORDER BY step) FROM counted), '[]'))::text"
        );
    }
    format!(
        "SELECT json_build_object('values', coalesce(json_agg(json_build_object('value', value, 'count', count) ORDER BY count DESC, value), '[]'))::text
FROM (SELECT {name} AS value, {} AS count FROM {from} AS t{filtered} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {VALUES_MAX}) AS counted",
        counted.total()
    )
}
