//! The tables that a query reads, through views too.

use lockstep_plan::facts::{Column, Identity, OrderKey, Relation, RelationKind, View};
use tokio_postgres::{Client, Row};

use lockstep_plan::chains;

use super::definition::StandIn;
use super::error::AnalysisError;
use super::keyless;

/// Everything that a view's rule refers to, through views of views. The oids stand in the stored rule's range table; `pg_depend`
/// would not do, because it does not record system tables.
pub(super) const READS: &str = "WITH RECURSIVE reads(oid) AS (
    SELECT $1::oid
    UNION
    SELECT m[1]::oid
    FROM reads
    JOIN pg_class v ON v.oid = reads.oid AND v.relkind = 'v'
    JOIN pg_rewrite r ON r.ev_class = v.oid
    CROSS JOIN LATERAL regexp_matches(r.ev_action::text, ':relid (\\d+)', 'g') AS m
)";

pub(super) async fn read(client: &Client, view: u32, stand_ins: &[StandIn]) -> Result<Vec<Relation>, AnalysisError> {
    let rows = client
        .query(
            &format!(
                "{READS}
                 SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
                        c.relreplident::text, EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
                 FROM reads JOIN pg_class c ON c.oid = reads.oid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind NOT IN ('v', 'S', 'c')
                 ORDER BY n.nspname, c.relname"
            ),
            &[&view],
        )
        .await?;
    let mut relations = Vec::with_capacity(rows.len());
    for row in rows {
        let is_temporary = row.get::<_, &str>(4) == "t";
        let stands = |stand_in: &&StandIn| is_temporary && chains::stand_in(&stand_in.projection) == row.get::<_, &str>(2);
        if let Some(stand_in) = stand_ins.iter().find(stands) {
            relations.push(stand_in.relation.clone());
            continue;
        }
        relations.push(relation(client, &row).await?);
        if relations.last().is_some_and(|relation| relation.kind == RelationKind::InheritanceParent) {
            add_children(client, &mut relations).await?;
        }
    }
    Ok(relations)
}

/// The views that a view reads, through views too. The search path must be empty, so that names print qualified.
pub(super) async fn views(client: &Client, view: u32) -> Result<Vec<View>, AnalysisError> {
    let rows = client
        .query(
            &format!(
                "{READS}
                 SELECT n.nspname::text, c.relname::text, pg_get_viewdef(c.oid)
                 FROM reads JOIN pg_class c ON c.oid = reads.oid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind = 'v' AND c.oid <> $1::oid ORDER BY 1, 2"
            ),
            &[&view],
        )
        .await?;
    Ok(rows.iter().map(|row| View { schema: row.get(0), name: row.get(1), sql: row.get(2) }).collect())
}

/// The descendants of an inheritance parent: their changes come under their own names.
async fn add_children(client: &Client, relations: &mut Vec<Relation>) -> Result<(), AnalysisError> {
    let Some(parent) = relations.last().map(|relation| relation.oid) else { return Ok(()) };
    let rows = client
        .query(
            "WITH RECURSIVE family(oid) AS (
                 SELECT inhrelid FROM pg_inherits WHERE inhparent = $1::oid
                 UNION
                 SELECT i.inhrelid FROM family JOIN pg_inherits i ON i.inhparent = family.oid
             )
             SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text, false
             FROM family JOIN pg_class c ON c.oid = family.oid JOIN pg_namespace n ON n.oid = c.relnamespace
             ORDER BY n.nspname, c.relname",
            &[&parent],
        )
        .await?;
    let at = relations.len() - 1;
    for row in rows {
        let child = relation(client, &row).await?;
        relations[at].children.push(child.oid);
        if !relations.iter().any(|known| known.oid == child.oid) {
            relations.push(child);
        }
    }
    Ok(())
}

async fn relation(client: &Client, row: &Row) -> Result<Relation, AnalysisError> {
    let (oid, schema, name): (u32, String, String) = (row.get(0), row.get(1), row.get(2));
    let label = format!("{schema}.{name}");
    let kind = match row.get::<_, &str>(3) {
        "p" => RelationKind::Partitioned,
        "r" if row.get::<_, bool>(6) => RelationKind::InheritanceParent,
        "r" => RelationKind::Table,
        "m" => {
            return Err(AnalysisError::definite(
                format!("{label} is a materialized view: its changes do not come through replication"),
                "read the tables that it is made from, or make a projection of its query",
            ));
        }
        _ => {
            return Err(AnalysisError::definite(
                format!("{label} is a foreign table: its changes are not in this server's WAL"),
                "follow the server that holds the table",
            ));
        }
    };
    if schema == "pg_catalog" || schema == "information_schema" {
        return Err(AnalysisError::definite(
            format!("{label} is a system table: its changes are not published"),
            "read the application's tables only",
        ));
    }
    if row.get::<_, &str>(4) != "p" {
        return Err(AnalysisError::definite(
            format!("{label} is temporary or unlogged: its changes are not in the WAL"),
            format!("ALTER TABLE {label} SET LOGGED"),
        ));
    }
    let identity = identity(client, oid, row.get(5)).await?;
    if identity == Identity::None {
        refuse_unidentified(client, oid).await?;
    }
    let mut relation = Relation {
        oid,
        kind,
        columns: columns(client, oid).await?,
        identity,
        located_by: Vec::new(),
        single_row: false,
        indexes: indexes(client, oid).await?,
        orders: orders(client, oid).await?,
        searchable: searchable(client, oid).await?,
        children: Vec::new(),
        schema,
        name,
    };
    if matches!(relation.identity, Identity::FullRow { .. }) {
        keyless::identify(client, &mut relation).await?;
    }
    Ok(relation)
}

/// With the statement that mends it: a table that is published already cannot be written until then.
async fn refuse_unidentified(client: &Client, oid: u32) -> Result<(), AnalysisError> {
    let found = lockstep_capture::unidentified(client, &[oid]).await?;
    let Some(found) = found.first() else { return Ok(()) };
    let hint = if found.remedy.ends_with("FULL") {
        format!("{}; (then a change sends its whole row, twice for an update), or give it a primary key", found.remedy)
    } else {
        format!("{};", found.remedy)
    };
    Err(AnalysisError::definite(
        format!("{} {}: publishing it makes the application's UPDATE and DELETE on it fail", found.table, found.reason),
        hint,
    ))
}

async fn columns(client: &Client, oid: u32) -> Result<Vec<Column>, AnalysisError> {
    let rows = client
        .query(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                    -- A domain over an enum has no operator `=`.
                    a.attcollation NOT IN (0, t.typcollation) OR t.typtype = 'd' AND t.typcategory = 'E'
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            &[&oid],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Column { name: row.get(0), type_name: row.get(1), not_null: row.get(2), own_collation: row.get(3) })
        .collect())
}

async fn identity(client: &Client, oid: u32, replica_identity: &str) -> Result<Identity, AnalysisError> {
    let condition = match replica_identity {
        "i" => "i.indisreplident",
        "d" | "f" => "i.indisprimary AND i.indimmediate",
        _ => return Ok(Identity::None),
    };
    let rows = client
        .query(
            &format!(
                "SELECT a.attname::text
                 FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                 WHERE i.indrelid = $1::oid AND i.indisvalid AND {condition} AND k.n <= i.indnkeyatts
                 ORDER BY k.n"
            ),
            &[&oid],
        )
        .await?;
    let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // A publication's column list must cover every partition's replica identity; without a list the application's updates go
    // through whatever the partitions say. Before 18 it cannot name a generated column; from 18 on it must, or updates fail.
    let irregular: bool = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_partition_tree($1::oid) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf AND c.relreplident <> $2)
                 OR current_setting('server_version_num')::int < 180000
                    AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attname = ANY ($3) AND a.attgenerated <> '')",
            &[&oid, &i8::try_from(replica_identity.as_bytes().first().copied().unwrap_or_default()).unwrap_or_default(), &columns],
        )
        .await?
        .get(0);
    let full = replica_identity == "f" || irregular;
    Ok(match (columns.is_empty(), full) {
        (false, _) => Identity::Columns { columns, full },
        (true, true) => Identity::FullRow { because: None },
        (true, false) => Identity::None,
    })
}

async fn indexes(client: &Client, oid: u32) -> Result<Vec<Vec<String>>, AnalysisError> {
    let rows = client
        .query(
            "SELECT ARRAY(SELECT coalesce(a.attname::text, pg_get_indexdef(i.indexrelid, k.n::int, false))
                          FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
                          LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
                          WHERE k.n <= i.indnkeyatts ORDER BY k.n)
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
             WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('btree', 'hash')",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The orders of B-trees over plain columns, with the operators and collations that ORDER BY has by itself.
async fn orders(client: &Client, oid: u32) -> Result<Vec<Vec<OrderKey>>, AnalysisError> {
    // pg_index.indoption: bit 0 is DESC, bit 1 NULLS FIRST (INDOPTION_DESC and INDOPTION_NULLS_FIRST in catalog/pg_index.h).
    let rows = client
        .query(
            "SELECT array_agg(a.attname::text ORDER BY k.n), array_agg(i.indoption[k.n - 1]::int & 1 <> 0 ORDER BY k.n),
                    array_agg(i.indoption[k.n - 1]::int & 2 <> 0 ORDER BY k.n)
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
             CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
             LEFT JOIN pg_opclass o ON o.oid = i.indclass[k.n - 1]
             WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree' AND k.n <= i.indnkeyatts
             GROUP BY i.indexrelid
             HAVING bool_and(a.attname IS NOT NULL AND o.opcdefault AND a.attcollation = i.indcollation[k.n - 1])",
            &[&oid],
        )
        .await?;
    let keys = |row: &tokio_postgres::Row| {
        let (columns, descending, nulls_first): (Vec<String>, Vec<bool>, Vec<bool>) = (row.get(0), row.get(1), row.get(2));
        let keys = columns.into_iter().zip(descending).zip(nulls_first);
        keys.map(|((column, descending), nulls_first)| OrderKey { column, descending, nulls_first }).collect()
    };
    Ok(rows.iter().map(keys).collect())
}

/// The columns of indexes that find what overlaps or contains something. In one of several columns any may be looked up.
async fn searchable(client: &Client, oid: u32) -> Result<Vec<String>, AnalysisError> {
    let rows = client
        .query(
            "SELECT DISTINCT a.attname::text
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
             CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('gist', 'spgist', 'gin')
               AND k.attnum > 0 AND k.n <= i.indnkeyatts ORDER BY 1",
            &[&oid],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
