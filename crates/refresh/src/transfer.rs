//! Rows from a source to a target on another database, as PostgreSQL encodes them.
//!
//! The fields of a binary `DataRow` have the layout of a COPY BINARY tuple, so they are forwarded without being decoded. Types
//! whose binary form could mean something else over there (it embeds oids, or belongs to an extension) travel as text.

use bytes::{BufMut as _, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _, pin_mut};
use lockstep_plan::quote;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Statement};

use crate::error::{BatchError, Side};

/// COPY data is sent in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// The header of a binary COPY: signature, no flags, no extension (PostgreSQL documentation, COPY, binary format).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Types that travel as binary: built in, and the same bytes on every server from 14 to 18.
const BINARY_TYPES: &[Type] = &[
    Type::BOOL,
    Type::BYTEA,
    Type::CHAR,
    Type::NAME,
    Type::INT8,
    Type::INT2,
    Type::INT4,
    Type::TEXT,
    Type::OID,
    Type::JSON,
    Type::FLOAT4,
    Type::FLOAT8,
    Type::MONEY,
    Type::INET,
    Type::CIDR,
    Type::MACADDR,
    Type::BPCHAR,
    Type::VARCHAR,
    Type::DATE,
    Type::TIME,
    Type::TIMESTAMP,
    Type::TIMESTAMPTZ,
    Type::INTERVAL,
    Type::TIMETZ,
    Type::BIT,
    Type::VARBIT,
    Type::NUMERIC,
    Type::UUID,
    Type::JSONB,
    Type::TS_VECTOR,
    Type::TSQUERY,
    Type::BOOL_ARRAY,
    Type::INT2_ARRAY,
    Type::INT4_ARRAY,
    Type::INT8_ARRAY,
    Type::TEXT_ARRAY,
    Type::VARCHAR_ARRAY,
    Type::FLOAT8_ARRAY,
    Type::NUMERIC_ARRAY,
    Type::UUID_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
];

/// A temporary table on the target that takes a projection's fresh rows.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    table: String,
    columns: Vec<StagedColumn>,
}

#[derive(Debug, Clone)]
struct StagedColumn {
    name: String,
    type_name: String,
    /// What a domain is over at last. The stage has that type: a domain that refuses NULL still holds the NULLs of an outer join.
    domain_over: Option<String>,
    binary: bool,
}

impl StagedColumn {
    fn staged_type(&self) -> &str {
        let own = self.domain_over.as_ref().unwrap_or(&self.type_name);
        if self.binary { own } else { "text" }
    }

    /// The staged value as the type that the table has.
    fn typed(&self) -> String {
        let name = quote::identifier(&self.name);
        match (&self.domain_over, self.binary) {
            // A subquery without a row is a NULL of the domain that nothing has checked.
            (Some(_), _) => format!("(SELECT {name}::{} WHERE {name} IS NOT NULL) AS {name}", self.type_name),
            (None, true) => name,
            (None, false) => format!("{name}::{} AS {name}", self.type_name),
        }
    }
}

impl Stage {
    /// A stage for the result of a query, given the columns' names and types on the target.
    pub(crate) async fn describe(
        source: &Client,
        name: &str,
        query: &str,
        columns: impl Iterator<Item = (String, String, Option<String>)>,
    ) -> Result<Self, tokio_postgres::Error> {
        let statement = source.prepare(query).await?;
        let columns = columns
            .zip(statement.columns())
            .map(|((name, type_name, domain_over), column)| {
                let binary = BINARY_TYPES.contains(column.type_());
                StagedColumn { name, type_name, domain_over, binary }
            })
            .collect();
        Ok(Self { table: format!("pg_temp.lockstep_stage_{name}"), columns })
    }

    pub(crate) fn create_statement(&self) -> String {
        self.creating("CREATE TEMPORARY TABLE")
    }

    /// The same for a session that may have it already.
    pub(crate) fn create_if_missing_statement(&self) -> String {
        self.creating("CREATE TEMPORARY TABLE IF NOT EXISTS")
    }

    fn creating(&self, create: &str) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {}", quote::identifier(&column.name), column.staged_type())).collect();
        format!("{create} {} ({}) ON COMMIT DELETE ROWS", self.table, columns.join(", "))
    }

    pub(crate) fn is_empty_statement(&self) -> String {
        format!("SELECT NOT EXISTS (SELECT FROM {})", self.table)
    }

    /// The stage as a FROM item whose columns have their final types.
    pub(crate) fn typed_source(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(StagedColumn::typed).collect();
        format!("(SELECT {} FROM {}) AS staged", columns.join(", "), self.table)
    }

    /// The query to run on the source so that its columns can be staged.
    pub(crate) fn source_query(&self, dirty_cte: Option<&str>, query: &str) -> String {
        let names: Vec<String> = self.columns.iter().map(|column| quote::identifier(&column.name)).collect();
        let fields: Vec<String> = self
            .columns
            .iter()
            .zip(&names)
            .map(|(column, name)| if column.binary { format!("q.{name}") } else { format!("q.{name}::text") })
            .collect();
        let prelude = dirty_cte.map(|cte| format!("WITH {cte}\n")).unwrap_or_default();
        format!("{prelude}SELECT {} FROM (\n{query}\n) AS q ({})", fields.join(", "), names.join(", "))
    }

    /// Whether all values can go to the table as they come.
    pub(crate) fn is_plain(&self) -> bool {
        self.columns.iter().all(|column| column.binary && column.domain_over.is_none())
    }

    /// Brings the result of a prepared source query straight to a table (quoted) that has the stage's columns; returns the rows.
    pub(crate) async fn forward(
        &self,
        source: &Client,
        (statement, parameters): (&Statement, &[&(dyn ToSql + Sync)]),
        target: &Client,
        table: &str,
        projection: usize,
    ) -> Result<u64, BatchError> {
        let at = |side| move |error| BatchError::Sql { side, error, projection: Some(projection) };
        let names: Vec<String> = self.columns.iter().map(|column| quote::identifier(&column.name)).collect();
        let copy = format!("COPY {table} ({}) FROM STDIN (FORMAT binary)", names.join(", "));
        let rows = source.query_raw(statement, parameters.iter().copied()).await.map_err(at(Side::Source))?;
        pin_mut!(rows);
        let sink = target.copy_in::<_, bytes::Bytes>(&copy).await.map_err(at(Side::Target))?;
        pin_mut!(sink);
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES * 2);
        buffer.put_slice(HEADER);
        while let Some(row) = rows.try_next().await.map_err(at(Side::Source))? {
            put_tuple(&mut buffer, &row);
            if buffer.len() >= PIECE_BYTES {
                sink.send(buffer.split().freeze()).await.map_err(at(Side::Target))?;
            }
        }
        buffer.put_i16(-1);
        sink.send(buffer.freeze()).await.map_err(at(Side::Target))?;
        sink.finish().await.map_err(at(Side::Target))
    }

    /// Replaces the stage's rows by the result of a prepared source query. The target must be inside a transaction.
    pub(crate) async fn fill(
        &self,
        source: &Client,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
        target: &Client,
        projection: usize,
    ) -> Result<(), BatchError> {
        let at = |side| move |error| BatchError::Sql { side, error, projection: Some(projection) };
        target.batch_execute(&format!("DELETE FROM {}", self.table)).await.map_err(at(Side::Target))?;
        self.forward(source, (statement, parameters), target, &self.table, projection).await.map(drop)
    }
}

fn put_tuple(buffer: &mut BytesMut, row: &tokio_postgres::Row) {
    buffer.put_i16(i16::try_from(row.len()).unwrap_or(i16::MAX));
    for index in 0..row.len() {
        match row.get::<_, Field<'_>>(index).0 {
            Some(bytes) => {
                // A field is at most 1 GiB, so its length fits.
                buffer.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                buffer.put_slice(bytes);
            }
            None => buffer.put_i32(-1),
        }
    }
}

/// A field's bytes, whatever its type.
struct Field<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Field<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
