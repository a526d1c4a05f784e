//! The materialized views that are there: what they are, what they read, who reads them.

use lockstep_plan::chains::with_other_table;
use lockstep_plan::indexes_for;
use tokio_postgres::Client;

use crate::privileges::{Missing, of_relations};
use crate::remedy::Remedy;

/// Names are kept so short that the configuration takes them.
const NAME_BYTES_MAX: usize = 38;

/// The schema of the read models.
pub const SCHEMA: &str = "read_model";

/// A materialized view as a projection.
#[derive(Debug, Default, Clone)]
pub struct Offered {
    /// The view, `schema.name`.
    pub view: String,
    schema: String,
    relation: String,
    /// What the projection would be called.
    pub name: String,
    /// Its query.
    pub sql: String,
    /// The columns of its key; empty if it has none.
    pub key: Vec<String>,
    /// Statements that make its indexes.
    pub indexes: Vec<String>,
    /// As last analysed.
    pub rows: Option<i64>,
    /// The views that it reads, `schema.name`, through views, too.
    pub reads_views: Vec<String>,
    /// The materialized views that it reads and that are not offered.
    pub reads_materialized: Vec<String>,
    /// Those that are, and the projections that it reads instead.
    pub reads_instead: Vec<(String, String)>,
    /// What the role may not read of it.
    pub lacks: Missing,
    /// How it would be maintained, or why it cannot be.
    pub remark: String,
    /// It stands in the file as a comment.
    pub left_out: bool,
}

/// Who may read the views, beside their owners.
#[derive(Debug, Default)]
pub struct Readers {
    /// Roles.
    pub roles: Vec<String>,
    /// Views that everybody may read.
    pub public: Vec<String>,
}

/// Looks for them. Names in their queries come qualified: no search path decides what they mean.
///
/// # Errors
/// A query failed, or an index is not to be read.
pub async fn views(client: &Client) -> anyhow::Result<Vec<Offered>> {
    client.batch_execute("BEGIN READ ONLY; SET LOCAL search_path = pg_catalog").await?;
    let rows = client
        .query(
            "WITH RECURSIVE reads (view, oid) AS (
                 SELECT c.oid, c.oid FROM pg_class AS c WHERE c.relkind = 'm'
                 UNION
                 SELECT s.view, d.refobjid FROM reads AS s JOIN pg_rewrite AS w ON w.ev_class = s.oid
                 JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> s.oid
                 -- A materialized view that it reads stands for itself.
                 WHERE s.oid = s.view OR EXISTS (SELECT FROM pg_class AS v WHERE v.oid = s.oid AND v.relkind = 'v')
             ),
             read AS (
                 SELECT s.view, r.oid, r.relkind, r.relname::text, n.nspname::text
                 FROM reads AS s JOIN pg_class AS r ON r.oid = s.oid JOIN pg_namespace AS n ON n.oid = r.relnamespace
                 WHERE s.oid <> s.view AND r.relkind IN ('r', 'p', 'f', 'v', 'm')
             )
             SELECT n.nspname::text, c.relname::text, pg_get_viewdef(c.oid, true), nullif(c.reltuples, -1)::bigint,
                    (SELECT array_agg(a.attname::text ORDER BY k.n)
                     FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
                     JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
                     WHERE i.indexrelid = u.indexrelid),
                    ARRAY(SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i
                          WHERE i.indrelid = c.oid AND i.indexrelid IS DISTINCT FROM u.indexrelid ORDER BY i.indexrelid::regclass::text),
                    ARRAY(SELECT concat(r.nspname, '.', r.relname) FROM read AS r WHERE r.view = c.oid AND r.relkind = 'v' ORDER BY 1),
                    ARRAY(SELECT concat(r.nspname, '.', r.relname) FROM read AS r WHERE r.view = c.oid AND r.relkind = 'm' ORDER BY 1),
                    ARRAY(SELECT r.oid FROM read AS r WHERE r.view = c.oid AND r.relkind <> 'm')
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             LEFT JOIN LATERAL (
                 -- The narrowest unique index of plain columns: what CONCURRENTLY needs is a key.
                 SELECT i.indexrelid FROM pg_index AS i
                 WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
                 ORDER BY i.indnkeyatts, i.indexrelid LIMIT 1
             ) AS u ON true
             WHERE c.relkind = 'm' AND coalesce(obj_description(c.oid, 'pg_class'), '') NOT LIKE 'lockstep backstop %'
             ORDER BY 1, 2",
            &[],
        )
        .await?;
    client.batch_execute("COMMIT").await?;
    let mut offered: Vec<Offered> = Vec::new();
    for row in &rows {
        let (schema, view): (&str, &str) = (row.get(0), row.get(1));
        let name = free_name(view, &offered);
        let definitions: Vec<String> = row.get(5);
        // The name only serves to find the statements; the table's schema is on the search path when they run.
        let indexes = indexes_for(&definitions.join(";\n"), view, "", &name, "")
            .map_err(|error| anyhow::anyhow!("the indexes of {schema}.{view}: {error}"))?;
        offered.push(Offered {
            view: format!("{schema}.{view}"),
            schema: schema.to_owned(),
            relation: view.to_owned(),
            name,
            sql: row.get::<_, &str>(2).trim().trim_end_matches(';').to_owned(),
            key: row.get::<_, Option<Vec<String>>>(4).unwrap_or_default(),
            indexes,
            rows: row.get(3),
            reads_views: row.get(6),
            reads_materialized: row.get(7),
            lacks: of_relations(client, &row.get::<_, Vec<u32>>(8)).await?,
            ..Offered::default()
        });
    }
    let read_one_another: Vec<Offered> = std::mem::take(&mut offered);
    for index in 0..read_one_another.len() {
        offered.push(over_projections(&read_one_another[index], &read_one_another));
    }
    Ok(offered)
}

/// No stream has the changes of a materialized view: what reads one reads the projection that it becomes.
fn over_projections(one: &Offered, all: &[Offered]) -> Offered {
    let mut one = one.clone();
    for read in all.iter().filter(|read| one.reads_materialized.contains(&read.view)) {
        one.sql = with_other_table(&one.sql, (&read.schema, &read.relation), (SCHEMA, &read.name));
        one.reads_instead.push((read.view.clone(), read.name.clone()));
    }
    one.reads_materialized.retain(|view| all.iter().all(|read| &read.view != view));
    one
}

/// Who may read them.
///
/// # Errors
/// The query failed.
pub async fn readers(client: &Client) -> Result<Readers, tokio_postgres::Error> {
    let row = client
        .query_one(
            "WITH granted AS (
                 SELECT concat(n.nspname, '.', c.relname) AS view, c.relowner, a.grantee
                 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) AS a
                 WHERE c.relkind = 'm' AND a.privilege_type = 'SELECT' AND coalesce(obj_description(c.oid, 'pg_class'), '') NOT LIKE 'lockstep backstop %'
             )
             SELECT ARRAY(SELECT DISTINCT r.rolname::text FROM granted AS g JOIN pg_roles AS r ON r.oid = g.grantee
                          WHERE g.grantee <> g.relowner AND r.rolname <> current_user ORDER BY 1),
                    ARRAY(SELECT view FROM granted WHERE grantee = 0 ORDER BY 1)",
            &[],
        )
        .await?;
    Ok(Readers { roles: row.get(0), public: row.get(1) })
}

/// The statements that give the role what it lacks for all of them.
pub fn grants(offered: &[Offered]) -> Remedy {
    offered.iter().fold(Remedy::default(), |all, one| all.and(one.lacks.remedy.clone()))
}

/// What the projection may be called: as the view, without `mv_`, in letters that the configuration takes.
fn free_name(view: &str, taken: &[Offered]) -> String {
    let plain = view.strip_prefix("mv_").unwrap_or(view).to_ascii_lowercase();
    let mut name: String = plain.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
        name.insert(0, '_');
    }
    name.truncate(NAME_BYTES_MAX - 3);
    if name.ends_with("__2") || name.ends_with("__old") {
        name.push('_');
    }
    let is_free = |name: &str| taken.iter().all(|other| other.name != name);
    let mut free = name.clone();
    let mut number = 2;
    while !is_free(&free) {
        free = format!("{name}_{number}");
        number += 1;
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_configuration_takes() {
        let named = |view: &str, taken: &[Offered]| free_name(view, taken);
        assert_eq!(named("mv_product_search", &[]), "product_search");
        assert_eq!(named("Daily Sales!", &[]), "daily_sales_");
        assert_eq!(named("2024", &[]), "_2024");
        assert_eq!(named("x__2", &[]), "x__2_");
        assert!(named(&"x".repeat(63), &[]).len() <= NAME_BYTES_MAX);
        let taken = [Offered { name: "x".to_owned(), ..Offered::default() }];
        assert_eq!(named("x", &taken), "x_2");
    }
}
