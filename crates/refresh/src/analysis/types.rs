//! What PostgreSQL can do with the values of a type. A domain is asked for by itself where PostgreSQL knows (it looks its base type up,
//! but not always: a domain over a range cannot be hashed in a record), and by its base type where a rule of ours is about types.

use lockstep_plan::facts::TypeFacts;
use tokio_postgres::Client;

use super::error::AnalysisError;

/// Whether values of a type can be hashed as a record's column.
pub(super) async fn hashes(client: &Client, type_name: &str) -> Result<bool, AnalysisError> {
    supports(client, type_name, "hash_record_extended(ROW(t.v), 0)").await
}

/// Whether values of a type have an equality as a record's column.
pub(super) async fn compares(client: &Client, type_name: &str) -> Result<bool, AnalysisError> {
    supports(client, type_name, "record_eq(ROW(t.v), ROW(t.v))").await
}

/// Whether values of a type can be hashed, and so be found by a locator.
///
/// # Errors
/// The query failed.
pub async fn is_hashable(client: &Client, type_name: &str) -> Result<bool, AnalysisError> {
    client.batch_execute("BEGIN").await?;
    let hashable = hashes(client, type_name).await;
    client.batch_execute("ROLLBACK").await?;
    hashable
}

/// Whether an expression over `t.v`, a NULL of the type, can be evaluated: PostgreSQL looks the operator class of a record's column
/// up when it runs. The NULL comes from an outer join, because a domain may refuse NULL as a constant.
async fn supports(client: &Client, type_name: &str, expression: &str) -> Result<bool, AnalysisError> {
    client.batch_execute("SAVEPOINT supports").await?;
    let probe =
        format!("SELECT {expression} FROM (SELECT) AS one LEFT JOIN (SELECT NULL::{type_name} AS v WHERE false) AS t ON true");
    match client.batch_execute(&probe).await {
        Ok(()) => {
            client.batch_execute("RELEASE SAVEPOINT supports").await?;
            Ok(true)
        }
        Err(error) if error.as_db_error().is_some() => {
            client.batch_execute("ROLLBACK TO SAVEPOINT supports").await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Types of which equal values are the same value, enums apart.
const EXACT_TYPES: &str =
    "'{bool,int2,int4,int8,oid,text,varchar,name,uuid,date,timestamp,timestamptz,time,bytea,inet,cidr,macaddr}'::text[]";

/// The facts of a type as a hidden table declares it, perhaps with COLLATE.
///
/// # Errors
/// The query failed.
pub async fn type_facts(client: &Client, declared: &str) -> Result<TypeFacts, AnalysisError> {
    let (type_name, own_collation) = declared.split_once(" COLLATE ").map_or((declared, false), |(name, _)| (name, true));
    let row = client
        .query_one(
            &format!(
                "WITH RECURSIVE chain (oid, typmod, depth) AS (
                     SELECT $1::text::regtype::oid, -1, 0
                     UNION ALL
                     -- A modifier of an inner domain holds for those over it.
                     SELECT t.typbasetype, CASE chain.typmod WHEN -1 THEN t.typtypmod ELSE chain.typmod END, depth + 1
                     FROM chain JOIN pg_type t ON t.oid = chain.oid WHERE t.typtype = 'd'
                 )
                 SELECT chain.depth, format_type(t.oid, chain.typmod),
                        t.typtype = 'e' OR t.typname = ANY ({EXACT_TYPES})
                            OR (t.typname = 'numeric' AND ($1 LIKE 'numeric(%' OR chain.typmod <> -1)),
                        CASE WHEN outermost.typcollation NOT IN (0, t.typcollation)
                             THEN quote_ident(n.nspname) || '.' || quote_ident(c.collname) END
                 FROM chain JOIN pg_type t ON t.oid = chain.oid JOIN pg_type outermost ON outermost.oid = $1::text::regtype
                 LEFT JOIN pg_collation c ON c.oid = outermost.typcollation LEFT JOIN pg_namespace n ON n.oid = c.collnamespace
                 WHERE t.typtype <> 'd'"
            ),
            &[&type_name],
        )
        .await?;
    let (base, collation): (String, Option<String>) = (row.get(1), row.get(3));
    let base = match (row.get::<_, i32>(0), declared.split_once(" COLLATE "), &collation) {
        (0, _, _) => declared.to_owned(),
        (_, Some((_, own)), _) => format!("{base} COLLATE {own}"),
        (_, None, Some(of_domain)) => format!("{base} COLLATE {of_domain}"),
        (_, None, None) => base,
    };
    Ok(TypeFacts { base, exact: row.get::<_, bool>(2) && collation.is_none() && !own_collation })
}
