//! What a projection's table looks like.

use tokio_postgres::{Client, Row};

use lockstep_plan::quote;

use crate::error::ReadError;

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What values are cast to: its type, or what a domain is over, as PostgreSQL prints it, but without a length (`character` means one
    /// character).
    pub type_name: String,
    /// PostgreSQL's `typcategory`: `N` for numbers, `B` booleans, `S` texts, `D` dates and times, `A` arrays, `U` the rest.
    pub category: char,
    /// Whether it is never NULL.
    pub not_null: bool,
    /// The name of the type in `pg_type`; of what a domain is over.
    pub base: String,
    /// How its values are printed in JSON.
    pub json: JsonKind,
    /// Whether its type has an order.
    pub is_sortable: bool,
    /// Whether its type is an enum, or a domain over one, which has no operators unless it is cast to the enum. (A query's result
    /// does not tell the one from the other.)
    pub is_enum: bool,
}

/// What `row_to_json` makes of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// Whatever there is: `json`, and types that are cast to it.
    Any,
    /// A boolean.
    Boolean,
    /// A number without fraction.
    Integer,
    /// A number; NaN and the infinities are printed as texts.
    Number,
    /// An array.
    Array,
    /// A composite's fields.
    Object,
    /// A text, for all others.
    Text,
}

impl Column {
    /// What is compared and sorted, over the alias `t`.
    pub(crate) fn value(&self) -> String {
        let name = format!("t.{}", quote::identifier(&self.name));
        if self.is_enum { format!("{name}::{}", self.type_name) } else { name }
    }

    /// Whether it is for full-text search alone.
    pub fn is_text_vector(&self) -> bool {
        self.type_name == "tsvector"
    }

    /// Whether its values can be compared and sorted. Composites are not: whether one is NULL depends on its fields.
    pub fn is_comparable(&self) -> bool {
        self.is_sortable && self.json != JsonKind::Object && !self.is_text_vector()
    }

    /// Whether its values can be divided into ranges of equal width.
    pub fn is_number(&self) -> bool {
        matches!(self.json, JsonKind::Integer | JsonKind::Number) || self.base == "money"
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
    fn of(rows: &[Row], key: &[String], trigrams: Option<String>) -> Self {
        let columns: Vec<Column> = rows.iter().map(column).collect();
        // Rows that cannot be put into an order by their key have no pages that go on where others ended.
        let sortable = |name: &String| columns.iter().any(|column| &column.name == name && column.is_comparable());
        let key = if key.iter().all(sortable) { key.to_vec() } else { Vec::new() };
        Self { columns, key, trigrams }
    }

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
/// `key` is what identifies a row if nothing more is known.
pub(crate) async fn look_up(
    client: &Client,
    schema: &str,
    name: &str,
    key: &[String],
) -> Result<Option<Table>, tokio_postgres::Error> {
    let columns = described(
        "SELECT a.attnum AS number, a.attname::text AS name, a.atttypid AS type, a.attnotnull AS not_null
          FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS s ON s.oid = c.relnamespace
          WHERE s.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
    );
    let rows = client.query(&columns, &[&schema, &name]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let row = client
        .query_one(
            "SELECT (SELECT key_columns FROM lockstep.projection WHERE name = $2 AND table_schema = $1),
                    (SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                     WHERE e.extname = 'pg_trgm')",
            &[&schema, &name],
        )
        .await?;
    let known: Vec<String> = row.get::<_, Option<_>>(0).unwrap_or_default();
    Ok(Some(Table::of(&rows, if known.is_empty() { key } else { &known }, row.get(1))))
}

/// What a query returns, for when its table is not there.
pub(crate) async fn describe(client: &Client, sql: &str, key: &[String]) -> Result<Table, tokio_postgres::Error> {
    let statement = client.prepare(&format!("SELECT * FROM (\n{sql}\n) AS t")).await?;
    let names: Vec<&str> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
    let types: Vec<u32> = statement.columns().iter().map(|column| column.type_().oid()).collect();
    let columns = described(
        "SELECT number, name, type, false AS not_null FROM unnest($1::text[], $2::oid[]) WITH ORDINALITY AS u (name, type, number)",
    );
    let rows = client.query(&columns, &[&names, &types]).await?;
    Ok(Table::of(&rows, key, None))
}

/// SQL that tells everything about columns of which number, name, type and whether they are never NULL are known.
///
/// How a type prints in JSON follows `json_categorize_type` in PostgreSQL's jsonfuncs.c; whether it has an order, `lookup_type_cache` in
/// typcache.c: of a domain what it is over, and of an array what its elements are, need a default operator class for B-trees.
fn described(columns: &str) -> String {
    format!(
        "SELECT c.name,
        -- A value that a domain refuses, or cuts, is one that no row has.
        CASE b.oid WHEN 'bpchar'::regtype THEN 'bpchar' WHEN 'bit'::regtype THEN 'varbit' ELSE format_type(b.oid, NULL) END,
        t.typcategory::text, c.not_null, b.typname::text,
        CASE WHEN b.oid IN ('json'::regtype, 'jsonb'::regtype) THEN 'any'
             WHEN b.oid = 'bool'::regtype THEN 'boolean'
             WHEN b.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'integer'
             WHEN b.oid IN ('float4'::regtype, 'float8'::regtype, 'numeric'::regtype) THEN 'number'
             WHEN b.typsubscript = 'array_subscript_handler'::regproc THEN 'array'
             WHEN b.typtype = 'c' THEN 'object'
             WHEN b.oid >= 16384 AND EXISTS (SELECT FROM pg_cast AS k WHERE k.castsource = b.oid AND k.casttarget = 'json'::regtype) THEN 'any'
             ELSE 'text' END,
        i.typtype IN ('e', 'r', 'm') OR EXISTS (
            -- Whose operators are called as everywhere (hstore's are not) and are those that the bare names mean here.
            SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'btree'
            JOIN pg_amop AS p ON p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype AND p.amoprighttype = o.opcintype
                             AND p.amopstrategy = 1
            JOIN pg_operator AS q ON q.oid = p.amopopr AND q.oprname = '<' AND pg_operator_is_visible(q.oid)
            WHERE o.opcdefault AND (o.opcintype = i.oid OR EXISTS (
                SELECT FROM pg_cast AS k
                WHERE k.castsource = i.oid AND k.casttarget = o.opcintype AND k.castmethod = 'b' AND k.castcontext = 'i'))),
        b.typtype = 'e'
 FROM ({columns}) AS c
 JOIN pg_type AS t ON t.oid = c.type
 CROSS JOIN LATERAL (
     -- The type, then what a domain is over and what an array consists of.
     WITH RECURSIVE inner_type (oid, depth) AS (
         SELECT c.type, 0
         UNION ALL
         SELECT CASE n.typtype WHEN 'd' THEN n.typbasetype ELSE n.typelem END, inner_type.depth + 1
         FROM inner_type JOIN pg_type AS n USING (oid)
         WHERE n.typtype = 'd' OR n.typsubscript = 'array_subscript_handler'::regproc
     )
     SELECT (array_agg(n.oid ORDER BY f.depth) FILTER (WHERE n.typtype <> 'd'))[1] AS base,
            (array_agg(n.oid ORDER BY f.depth DESC))[1] AS innermost
     FROM inner_type AS f JOIN pg_type AS n USING (oid)
 ) AS found
 JOIN pg_type AS b ON b.oid = found.base
 JOIN pg_type AS i ON i.oid = found.innermost
 ORDER BY c.number"
    )
}

fn column(row: &Row) -> Column {
    Column {
        name: row.get(0),
        type_name: row.get(1),
        category: row.get::<_, &str>(2).chars().next().unwrap_or('U'),
        not_null: row.get(3),
        base: row.get(4),
        json: match row.get(5) {
            "any" => JsonKind::Any,
            "boolean" => JsonKind::Boolean,
            "integer" => JsonKind::Integer,
            "number" => JsonKind::Number,
            "array" => JsonKind::Array,
            "object" => JsonKind::Object,
            _ => JsonKind::Text,
        },
        is_sortable: row.get(6),
        is_enum: row.get(7),
    }
}
