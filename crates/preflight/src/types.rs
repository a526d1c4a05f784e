//! What the read models' columns and indexes need in a second database: types, collations, extensions, functions.

use std::collections::BTreeSet;

use lockstep_config::Config;
use lockstep_connect::{Session, describe};
use lockstep_plan::{indexes_for, quote};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::remedy::{By, Remedy, Side};
use crate::report::{Planned, Preflight};

/// Who makes what the target lacks.
const IN_TARGET: By = By::DatabaseOwner(Side::Target);

/// A type that the source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededType {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The values of an enum, in their order.
    pub labels: Vec<String>,
    /// What makes it as it is in the source, where that is known.
    pub statement: Option<String>,
    /// Whether Lockstep may make it: an enum or a domain.
    pub makeable: bool,
}

/// The types of all columns, and those that they are made of, first those that others are made of. `$1` are types as `format_type` prints
/// them. The search path must be empty.
const NEEDED: &str = "WITH RECURSIVE needs (oid, depth) AS (
        SELECT to_regtype(name)::oid, 0 FROM unnest($1::text[]) AS name
        UNION
        SELECT inner_type.oid, depth + 1
        FROM needs JOIN pg_type AS t ON t.oid = needs.oid
        CROSS JOIN LATERAL (
            SELECT t.typelem WHERE t.typsubscript = 'array_subscript_handler'::regproc
            UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL SELECT a.atttypid FROM pg_attribute AS a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_range AS r WHERE r.rngtypid = t.oid
            UNION ALL SELECT r.rngtypid FROM pg_range AS r WHERE r.rngmultitypid = t.oid
        ) AS inner_type (oid)
        WHERE depth < 16
    )
    SELECT n.nspname::text, t.typname::text,
           ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
           CASE
               WHEN e.extname IS NOT NULL THEN format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I', e.extname, n.nspname)
               WHEN t.typtype = 'e' THEN format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname,
                   (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
               WHEN t.typtype = 'd' THEN format('CREATE DOMAIN %I.%I AS %s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod))
                   || coalesce((SELECT format(' COLLATE %I.%I', cn.nspname, c.collname) FROM pg_collation AS c
                                JOIN pg_namespace AS cn ON cn.oid = c.collnamespace JOIN pg_type AS b ON b.oid = t.typbasetype
                                WHERE c.oid = t.typcollation AND c.oid <> b.typcollation), '')
                   || coalesce(' DEFAULT ' || t.typdefault, '') || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                   || coalesce((SELECT string_agg(format(' CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), '' ORDER BY conname)
                                FROM pg_constraint WHERE contypid = t.oid AND contype = 'c'), '')
               WHEN t.typtype = 'c' THEN format('CREATE TYPE %I.%I AS (%s)', n.nspname, t.typname,
                   (SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
                    FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped))
               WHEN t.typtype = 'r' THEN format('CREATE TYPE %I.%I AS RANGE (SUBTYPE = %s)', n.nspname, t.typname,
                   (SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = t.oid))
           END,
           t.typtype IN ('e', 'd') AND e.extname IS NULL
    FROM (SELECT oid, max(depth) AS depth FROM needs GROUP BY oid) AS needs
    JOIN pg_type AS t USING (oid) JOIN pg_namespace AS n ON n.oid = t.typnamespace
    LEFT JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
    LEFT JOIN pg_extension AS e ON e.oid = d.refobjid
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND t.typsubscript <> 'array_subscript_handler'::regproc AND t.typtype <> 'm'
    ORDER BY needs.depth DESC, 1, 2";

/// The types that the read models and the hidden tables need, as the source has them.
///
/// # Errors
/// The catalogs of types and extensions cannot be read.
pub async fn needed(source: &Client, planned: &[Planned]) -> Result<Vec<NeededType>, tokio_postgres::Error> {
    let names: BTreeSet<&str> = planned
        .iter()
        .flat_map(|planned| {
            let columns = planned.plan.columns.iter().map(|column| column.type_name.as_str());
            columns.chain(planned.plan.state_tables().into_iter().flat_map(|state| state.types.iter().map(String::as_str)))
        })
        .map(|declared| declared.split(" COLLATE ").next().unwrap_or(declared).trim_end_matches(" NOT NULL"))
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    source.batch_execute("BEGIN; SET LOCAL search_path = ''").await?;
    let rows = source.query(NEEDED, &[&names]).await;
    source.batch_execute("ROLLBACK").await?;
    let one = |row: &tokio_postgres::Row| NeededType {
        schema: row.get(0),
        name: row.get(1),
        labels: row.get(2),
        statement: row.get(3),
        makeable: row.get(4),
    };
    Ok(rows?.iter().map(one).collect())
}

/// Those that the target lacks.
///
/// # Errors
/// The catalogs of types and extensions cannot be read.
pub async fn missing(target: &Client, needed: Vec<NeededType>) -> Result<Vec<NeededType>, tokio_postgres::Error> {
    let names: Vec<String> = needed.iter().map(|found| quote::qualified(&found.schema, &found.name)).collect();
    let row = target
        .query_one(
            "SELECT ARRAY(SELECT to_regtype(name) IS NULL FROM unnest($1::text[]) WITH ORDINALITY AS u (name, n) ORDER BY n)",
            &[&names],
        )
        .await?;
    let lacks: Vec<bool> = row.get(0);
    Ok(needed.into_iter().zip(lacks).filter(|(_, lacks)| *lacks).map(|(found, _)| found).collect())
}

/// Tells what the target lacks, with the statements that make it.
pub(crate) async fn check(
    config: &Config,
    source: &Session,
    target: &Session,
    preflight: &mut Preflight,
) -> Result<(), tokio_postgres::Error> {
    if config.target.is_none() {
        return Ok(());
    }
    let lacking = missing(target, needed(source, &preflight.planned).await?).await?;
    let mut complete = collations(source, target, preflight).await?;
    for found in &lacking {
        let label = format!("{}.{}", found.schema, found.name);
        if config.make_types && found.makeable {
            preflight.ok("target", format!("the type {label} will be made as it is in the source"));
            continue;
        }
        complete = false;
        let schema = new_schema(target, &quote::identifier(&found.schema)).await?;
        let made = |statement: &String| Remedy::sql(&IN_TARGET, schema.iter().chain([statement]));
        let remedy = match &found.statement {
            Some(statement) if found.makeable => made(statement).note("or [target] make_types = true"),
            Some(statement) => made(statement),
            None => Remedy::from("install in the target what brings it"),
        };
        preflight.error("target", format!("there is no type {label}, which columns of read models have"), remedy);
    }
    if complete && lacking.is_empty() {
        indexes(source, target, preflight).await?;
    }
    Ok(())
}

/// What makes a schema, given quoted, that the target lacks.
async fn new_schema(target: &Session, schema: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let lacks: bool = target.query_one("SELECT to_regnamespace($1) IS NULL", &[&schema]).await?.get(0);
    Ok(lacks.then(|| format!("CREATE SCHEMA IF NOT EXISTS {schema}")))
}

async fn collations(source: &Session, target: &Session, preflight: &mut Preflight) -> Result<bool, tokio_postgres::Error> {
    let names: BTreeSet<String> = preflight
        .planned
        .iter()
        .flat_map(|planned| &planned.plan.columns)
        .filter_map(|column| column.collation.clone())
        .collect();
    let mut complete = true;
    for name in names {
        if target.query_one("SELECT to_regcollation($1) IS NOT NULL", &[&name]).await?.get(0) {
            continue;
        }
        complete = false;
        // The locale's column has had three names since 14.
        let row = source
            .query_one(
                "SELECT format('CREATE COLLATION %s (provider = %s, locale = %L, deterministic = %s)', $1::text,
                               CASE collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                               coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', collcollate), collisdeterministic::text),
                        collnamespace::regnamespace::text
                 FROM pg_collation AS c WHERE oid = to_regcollation($1::text)",
                &[&name],
            )
            .await?;
        let (statement, schema): (String, String) = (row.get(0), row.get(1));
        preflight.error(
            "target",
            format!("there is no collation {name}, which columns of read models have"),
            Remedy::sql(&IN_TARGET, new_schema(target, &schema).await?.into_iter().chain([statement])),
        );
    }
    Ok(complete)
}

/// Tries the configured indexes on empty tables that are rolled back: what they need and the target lacks, PostgreSQL says.
async fn indexes(source: &Session, target: &Session, preflight: &mut Preflight) -> Result<(), tokio_postgres::Error> {
    for planned in preflight.planned.clone() {
        let (plan, Some(statements)) = (&planned.plan, &planned.indexes) else { continue };
        let Ok(statements) = indexes_for(statements, &plan.projection, "pg_temp", &plan.projection, "lockstep_try_") else {
            continue;
        };
        let column = |column: &lockstep_plan::facts::OutputColumn| {
            let collation = column.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
            format!("{} {}{collation}", quote::identifier(&column.name), column.type_name)
        };
        let columns: Vec<String> = plan.columns.iter().map(column).collect();
        let table = format!("CREATE TEMPORARY TABLE {} ({})", quote::identifier(&plan.projection), columns.join(", "));
        for statement in statements {
            let tried =
                target.batch_execute(&format!("BEGIN; {table}; {}; ROLLBACK", statement.replace(" CONCURRENTLY", ""))).await;
            let Err(error) = tried else { continue };
            target.batch_execute("ROLLBACK").await?;
            let lacks = [
                SqlState::UNDEFINED_OBJECT,
                SqlState::UNDEFINED_FUNCTION,
                SqlState::UNDEFINED_SCHEMA,
                SqlState::INVALID_SCHEMA_NAME,
            ];
            if !error.code().is_some_and(|code| lacks.contains(code)) {
                continue;
            }
            let only_there = extensions_of(source, target).await?;
            let remedy = if only_there.is_empty() {
                Remedy::from("make it in the target")
            } else {
                Remedy::sql(&IN_TARGET, only_there).optional().note("what of this has it")
            };
            preflight.error(
                format!("projection {}", plan.projection),
                format!("an index needs what the target lacks: {}", describe(&error)),
                remedy,
            );
        }
    }
    Ok(())
}

/// What makes the extensions that the source has and the target lacks.
async fn extensions_of(source: &Session, target: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
    let row = target.query_one("SELECT ARRAY(SELECT extname::text FROM pg_extension)", &[]).await?;
    let there: Vec<String> = row.get(0);
    let row = source
        .query_one(
            "SELECT ARRAY(SELECT format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I', extname, nspname)
                          FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace WHERE extname <> ALL ($1) ORDER BY 1)",
            &[&there],
        )
        .await?;
    Ok(row.get(0))
}
