//! What a role needs to read what a query names, and who can give it.

use lockstep_plan::{quote, tables_named};
use tokio_postgres::Client;

use crate::remedy::{By, Remedy, Side};

/// What is missing, in words and as statements.
#[derive(Debug, Default, Clone)]
pub struct Missing {
    /// Privileges and what they are on.
    pub words: Vec<String>,
    /// What grants them.
    pub remedy: Remedy,
}

impl Missing {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

/// What the session's role may not read of what a query names, through views too: those are written out.
///
/// # Errors
/// The query failed.
pub(crate) async fn of_query(source: &Client, sql: &str) -> Result<Missing, tokio_postgres::Error> {
    let (schemas, names): (Vec<String>, Vec<String>) = tables_named(sql).into_iter().unzip();
    let rows = source
        .query(
            "SELECT c.oid FROM unnest($1::text[], $2::text[]) AS q (schema, name)
             JOIN pg_class AS c ON c.relname = q.name JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE CASE WHEN q.schema = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = q.schema END",
            &[&schemas, &names],
        )
        .await?;
    let oids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    of_relations(source, &oids).await
}

/// The same for tables and views.
///
/// # Errors
/// The query failed.
pub async fn of_relations(source: &Client, oids: &[u32]) -> Result<Missing, tokio_postgres::Error> {
    let rows = source
        .query(
            "WITH RECURSIVE reads (oid) AS (
                 SELECT unnest($1::oid[])
                 UNION
                 SELECT d.refobjid FROM reads AS s JOIN pg_class AS v ON v.oid = s.oid AND v.relkind = 'v'
                 JOIN pg_rewrite AS w ON w.ev_class = s.oid
                 JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> s.oid
             ),
             read AS (
                 SELECT c.oid, c.relname, n.nspname, n.oid AS schema, n.nspowner, c.relowner
                 FROM reads AS s JOIN pg_class AS c ON c.oid = s.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
             )
             SELECT 1, 'USAGE on schema ' || nspname, 'USAGE ON SCHEMA ' || quote_ident(nspname), pg_get_userbyid(nspowner)::text
             FROM read WHERE NOT has_schema_privilege(schema, 'USAGE')
             UNION
             SELECT 2, concat('SELECT on ', nspname, '.', relname), format('SELECT ON %I.%I', nspname, relname), pg_get_userbyid(relowner)::text
             FROM read WHERE NOT has_table_privilege(oid, 'SELECT')
             UNION
             SELECT 3, concat('BYPASSRLS, because row-level security on ', nspname, '.', relname, ' hides rows from it'), '', ''
             FROM read WHERE row_security_active(oid)
             ORDER BY 1, 2",
            &[&oids],
        )
        .await?;
    let role: String = source.query_one("SELECT current_user::text", &[]).await?.get(0);
    let role = quote::identifier(&role);
    let mut missing = Missing::default();
    for row in &rows {
        let (kind, words, privilege, owner): (i32, String, &str, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        missing.words.push(words);
        let remedy = match kind {
            3 => Remedy::sql(&By::Superuser(Side::Source), [format!("ALTER ROLE {role} BYPASSRLS")]),
            _ => Remedy::sql(&By::Owner(owner), [format!("GRANT {privilege} TO {role}")]),
        };
        missing.remedy = missing.remedy.and(remedy);
    }
    Ok(missing)
}

/// Who owns a table, given as SQL has it (quoted where it must be); a superuser where that cannot be told.
pub(crate) async fn owner(source: &Client, table: &str) -> By {
    let owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = to_regclass($1)";
    match source.query_opt(owner, &[&table]).await {
        Ok(Some(row)) => By::Owner(row.get(0)),
        Ok(None) | Err(_) => By::Superuser(Side::Source),
    }
}
