//! What a projection's table looks like.

use tokio_postgres::Client;

use crate::error::ReadError;

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What values are cast to: its type as PostgreSQL prints it, but without a length (`character` means one character).
    pub type_name: String,
    /// PostgreSQL's `typcategory`: `N` for numbers, `B` booleans, `S` texts, `D` dates and times, `A` arrays, `U` the rest.
    pub category: char,
    /// Whether it is never NULL.
    pub not_null: bool,
}

impl Column {
    /// Whether it is for full-text search alone.
    pub fn is_text_vector(&self) -> bool {
        self.type_name == "tsvector"
    }

    /// Whether its values can be compared and sorted. Composites are not: whether one is NULL depends on its fields.
    pub fn is_comparable(&self) -> bool {
        self.category != 'C'
            && !["json", "xml", "point", "box", "polygon", "line", "lseg", "path", "circle", "tsvector"]
                .contains(&self.type_name.as_str())
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Columns that identify a row; empty if none do.
    pub key: Vec<String>,
    /// The schema of `pg_trgm`, if it is installed.
    pub trigrams: Option<String>,
}

impl Table {
    /// A column by name.
    ///
    /// # Errors
    /// There is none: names the parameter.
    pub fn column(&self, parameter: &str, name: &str) -> Result<&Column, ReadError> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            ReadError::bad(parameter, format!("there is no column \"{name}\"; there are {}", names.join(", ")))
        })
    }

    /// Whether a column is there.
    pub fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    /// The first column for full-text search.
    pub fn text_vector(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.is_text_vector())
    }
}

/// Looks a table up in the catalogue; `None` if it is not there.
pub(crate) async fn look_up(client: &Client, schema: &str, name: &str) -> Result<Option<Table>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT a.attname::text, CASE a.atttypid WHEN 'bpchar'::regtype THEN 'bpchar' WHEN 'bit'::regtype THEN 'varbit'
                                           ELSE format_type(a.atttypid, NULL) END, t.typcategory::text, a.attnotnull,
                    p.key_columns, (SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                                    WHERE e.extname = 'pg_trgm')
             FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
             JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS s ON s.oid = c.relnamespace
             LEFT JOIN lockstep.projection AS p ON p.name = c.relname AND p.table_schema = s.nspname
             WHERE s.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            &[&schema, &name],
        )
        .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let key: Option<Vec<String>> = first.get(4);
    let columns = rows
        .iter()
        .map(|row| Column {
            name: row.get(0),
            type_name: row.get(1),
            category: row.get::<_, &str>(2).chars().next().unwrap_or('U'),
            not_null: row.get(3),
        })
        .collect();
    Ok(Some(Table { columns, key: key.unwrap_or_default(), trigrams: first.get(5) }))
}

/// What a query returns, for when its table is not there.
pub(crate) async fn describe(client: &Client, sql: &str, key: &[String]) -> Result<Table, tokio_postgres::Error> {
    let statement = client.prepare(&format!("SELECT * FROM (\n{sql}\n) AS t")).await?;
    let mut columns = Vec::new();
    for column in statement.columns() {
        let row = client
            .query_one("SELECT CASE oid WHEN 'bpchar'::regtype THEN 'bpchar' WHEN 'bit'::regtype THEN 'varbit' ELSE format_type(oid, NULL) END,
                        typcategory::text FROM pg_type WHERE oid = $1", &[&column.type_().oid()])
            .await?;
        columns.push(Column {
            name: column.name().to_owned(),
            type_name: row.get(0),
            category: row.get::<_, &str>(1).chars().next().unwrap_or('U'),
            not_null: false,
        });
    }
    Ok(Table { columns, key: key.to_vec(), trigrams: None })
}
