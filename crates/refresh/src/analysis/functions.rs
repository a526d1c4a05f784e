//! The functions that a query calls, exactly: their oids stand in the stored rule, overloads resolved.

use lockstep_plan::facts::{Function, FunctionKind, Volatility};
use tokio_postgres::Client;

use super::error::AnalysisError;
use super::relations::READS;

/// Fields of the rule's expression nodes that hold a function's oid: function calls, operators, aggregates, window functions.
/// (`FuncExpr`, `OpExpr`, `Aggref`, `WindowFunc` in PostgreSQL's `primnodes.h`.) `pg_depend` would not do: it does not record
/// built-in functions.
const FUNCTION_FIELDS: &str = ":(?:funcid|opfuncid|aggfnoid|winfnoid) (\\d+)";

pub(super) async fn read(client: &Client, view: u32) -> Result<Vec<Function>, AnalysisError> {
    let rows = client
        .query(
            &format!(
                "{READS}
                 SELECT DISTINCT p.oid, n.nspname::text, p.proname::text, p.provolatile::text, p.prokind::text, p.proretset, p.pronargs::int,
                        l.lanname NOT IN ('internal', 'c'), p.proisstrict
                 FROM reads
                 JOIN pg_class v ON v.oid = reads.oid AND v.relkind = 'v'
                 JOIN pg_rewrite r ON r.ev_class = v.oid
                 CROSS JOIN LATERAL regexp_matches(r.ev_action::text, $2, 'g') AS m
                 JOIN pg_proc p ON p.oid = m[1]::oid
                 JOIN pg_namespace n ON n.oid = p.pronamespace
                 JOIN pg_language l ON l.oid = p.prolang
                 ORDER BY p.oid"
            ),
            &[&view, &FUNCTION_FIELDS],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Function {
            oid: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            volatility: match row.get::<_, &str>(3) {
                "i" => Volatility::Immutable,
                "s" => Volatility::Stable,
                _ => Volatility::Volatile,
            },
            kind: match row.get::<_, &str>(4) {
                "a" => FunctionKind::Aggregate,
                "w" => FunctionKind::Window,
                _ => FunctionKind::Function,
            },
            returns_set: row.get(5),
            arguments: usize::try_from(row.get::<_, i32>(6)).unwrap_or_default(),
            interpreted: row.get(7),
            strict: row.get(8),
        })
        .collect())
}

/// `CURRENT_DATE` to `LOCALTIMESTAMP(n)`: operations 0 to 8 of a `SQLValueFunction` (PostgreSQL's `primnodes.h`); those after them
/// are `CURRENT_USER` and its like.
const CLOCK_NODE: &str = "\\{SQLVALUEFUNCTION :op [0-8] ";

/// Whether the query, or a view that it reads, asks for the time with a keyword.
pub(super) async fn reads_clock(client: &Client, view: u32) -> Result<bool, AnalysisError> {
    let row = client
        .query_one(
            &format!(
                "{READS}
                 SELECT coalesce(bool_or(r.ev_action::text ~ $2), false)
                 FROM reads JOIN pg_class v ON v.oid = reads.oid AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid"
            ),
            &[&view, &CLOCK_NODE],
        )
        .await?;
    Ok(row.get(0))
}
