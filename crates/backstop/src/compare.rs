//! Comparing as multisets.

use futures_util::{TryStreamExt as _, pin_mut};
use lockstep_connect::Text;
use tokio_postgres::Client;

/// Rows are carried to the target in statements of this many.
const ROWS_PER_STATEMENT: usize = 1_000;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The projection's name, its table's too.
    pub name: String,
    /// The schema of its table.
    pub schema: String,
    /// The defining query.
    pub query: String,
    /// Its columns, and whether each column's type has an equality; those without are compared as text.
    pub columns: Vec<(String, bool)>,
    /// The time zone that the query is computed in.
    pub time_zone: String,
}

/// The outcome; equal if both counts are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Rows that the query returns and the table lacks.
    pub missing: i64,
    /// Rows that the table has and the query does not return.
    pub unexpected: i64,
    /// Rows in the table.
    pub rows: i64,
}

impl Comparison {
    /// Whether table and query are equal as multisets.
    pub fn is_equal(&self) -> bool {
        self.missing == 0 && self.unexpected == 0
    }
}

impl Subject {
    fn table(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    fn columns(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, comparable)| if *comparable { quote(name) } else { format!("{}::text", quote(name)) })
            .collect();
        columns.join(", ")
    }

    fn zone(&self) -> String {
        format!("SET LOCAL TimeZone = '{}'", self.time_zone.replace('\'', "''"))
    }

    fn difference(&self, expected: &str) -> String {
        let (columns, table) = (self.columns(), self.table());
        format!(
            "SELECT (SELECT count(*) FROM (SELECT {columns} FROM {expected} EXCEPT ALL SELECT {columns} FROM {table}) AS missing),
                    (SELECT count(*) FROM (SELECT {columns} FROM {table} EXCEPT ALL SELECT {columns} FROM {expected}) AS unexpected),
                    (SELECT count(*) FROM {table})"
        )
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Compares where one session sees both sides: inside a batch's transaction, or on a source that stands still. The session must be
/// inside a transaction.
///
/// # Errors
/// The query fails.
pub async fn compare_in_one_session(session: &Client, subject: &Subject) -> Result<Comparison, tokio_postgres::Error> {
    session.batch_execute(&subject.zone()).await?;
    let expected = format!("(\n{}\n) AS expected", subject.query);
    comparison(session, &subject.difference(&expected)).await
}

/// Compares what `source` returns for the query with what `target` sees in the table. The rows are carried over as the text of
/// whole rows and read back as the table's row type, so that the target compares values, not spellings. Both sessions must be
/// inside a transaction; the target's may be read-only but for a temporary table.
///
/// # Errors
/// Either side fails.
pub async fn compare(source: &Client, target: &Client, subject: &Subject) -> Result<Comparison, tokio_postgres::Error> {
    let table = subject.table();
    source.batch_execute(&subject.zone()).await?;
    target.batch_execute(&subject.zone()).await?;
    // A domain that refuses NULL still holds the NULLs of an outer join, so rows are read as what domains are over.
    let columns: String = target
        .query_one(
            "SELECT string_agg(quote_ident(attname) || ' ' || coalesce((
                        WITH RECURSIVE chain (oid, typmod) AS (
                            SELECT typbasetype, typtypmod FROM pg_type WHERE oid = atttypid AND typtype = 'd'
                            UNION ALL
                            SELECT typbasetype, CASE typmod WHEN -1 THEN typtypmod ELSE typmod END
                            FROM chain JOIN pg_type AS inner_type ON inner_type.oid = chain.oid WHERE typtype = 'd'
                        )
                        SELECT format_type(oid, typmod) FROM chain JOIN pg_type AS base USING (oid) WHERE base.typtype <> 'd'),
                        format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
             FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
            &[&table],
        )
        .await?
        .get(0);
    target
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS pg_temp.lockstep_expected; CREATE TEMPORARY TABLE lockstep_expected ({columns})"
        ))
        .await?;
    let insert = target
        .prepare(
            "INSERT INTO pg_temp.lockstep_expected
             SELECT (expected).* FROM (SELECT r::pg_temp.lockstep_expected AS expected FROM unnest($1::text[]) AS r OFFSET 0) AS read",
        )
        .await?;
    let rows = source.query_raw::<_, &str, _>(&format!("SELECT ROW(q.*)::text FROM (\n{}\n) AS q", subject.query), []).await?;
    pin_mut!(rows);
    let mut texts: Vec<Text> = Vec::with_capacity(ROWS_PER_STATEMENT);
    while let Some(row) = rows.try_next().await? {
        texts.push(row.get(0));
        if texts.len() == ROWS_PER_STATEMENT {
            target.execute(&insert, &[&texts]).await?;
            texts.clear();
        }
    }
    target.execute(&insert, &[&texts]).await?;
    let result = comparison(target, &subject.difference("pg_temp.lockstep_expected")).await?;
    target.batch_execute("DROP TABLE pg_temp.lockstep_expected").await?;
    Ok(result)
}

async fn comparison(session: &Client, sql: &str) -> Result<Comparison, tokio_postgres::Error> {
    let row = session.query_one(sql, &[]).await?;
    Ok(Comparison { missing: row.get(0), unexpected: row.get(1), rows: row.get(2) })
}
