//! Decoding of logical replication messages (pgoutput, protocol version 1), without copying and without I/O.
//!
//! Reference: PostgreSQL documentation, "Logical Replication Message Formats". The decoder trusts nothing: every length is
//! checked against the bytes that are there, and bytes left over are an error, so that a misread never looks like a message.

mod error;
mod reader;
#[cfg(test)]
mod tests;

use crate::Lsn;
pub use error::DecodeError;
use reader::Reader;

/// One logical replication message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts; its changes follow up to [`Message::Commit`].
    Begin {
        /// The end of the transaction's commit record.
        final_lsn: Lsn,
        /// Commit time in microseconds since 2000-01-01 UTC.
        commit_time: i64,
        /// The transaction's 32-bit id.
        xid: u32,
    },
    /// The transaction is complete.
    Commit {
        /// The start of the commit record.
        commit_lsn: Lsn,
        /// The byte after the commit record.
        end_lsn: Lsn,
        /// Commit time in microseconds since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// The transaction came from another node.
    Origin {
        /// The origin's name.
        name: &'a str,
    },
    /// A relation's columns; sent before its first change in a session and again after it changed.
    Relation(Relation<'a>),
    /// A non-builtin type.
    Type {
        /// The type's oid.
        oid: u32,
        /// Schema, empty for `pg_catalog`.
        schema: &'a str,
        /// Name.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// The relation's oid.
        relation: u32,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// The relation's oid.
        relation: u32,
        /// The old identity (or whole old row), sent only if the identity changed or is FULL.
        old: Option<Tuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The relation's oid.
        relation: u32,
        /// The old identity or whole old row.
        old: Tuple<'a>,
    },
    /// Relations were truncated.
    Truncate {
        /// The relations' oids.
        relations: Vec<u32>,
    },
    /// `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to a transaction.
        transactional: bool,
        /// The sender's prefix.
        prefix: &'a str,
    },
}

/// A relation as the message describes it (which may be older than the catalog).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The relation's oid.
    pub oid: u32,
    /// Schema; `pg_catalog` where the message leaves it empty.
    pub schema: &'a str,
    /// Name.
    pub name: &'a str,
    /// `d`efault, `n`othing, `f`ull or `i`ndex.
    pub replica_identity: u8,
    /// The published columns, in order.
    pub columns: Vec<Column<'a>>,
}

/// A published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<'a> {
    /// Whether it is part of the replica identity.
    pub in_identity: bool,
    /// Name.
    pub name: &'a str,
    /// The type's oid.
    pub type_oid: u32,
}

/// A row: its column values, in the relation's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// The values.
    pub values: Vec<Value<'a>>,
}

/// A column value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL, or a column outside the identity in an old row.
    Null,
    /// A TOASTed value that did not change and is not sent.
    Unchanged,
    /// Text form.
    Text(&'a [u8]),
    /// Binary form.
    Binary(&'a [u8]),
}

/// Decodes one message.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(bytes)?;
    let message = match reader.tag() {
        'B' => Message::Begin { final_lsn: Lsn(reader.u64()?), commit_time: reader.i64()?, xid: reader.u32()? },
        'C' => {
            let _flags = reader.u8()?;
            Message::Commit { commit_lsn: Lsn(reader.u64()?), end_lsn: Lsn(reader.u64()?), commit_time: reader.i64()? }
        }
        'O' => {
            let _commit_lsn = reader.u64()?;
            Message::Origin { name: reader.string()? }
        }
        'R' => Message::Relation(relation(&mut reader)?),
        'Y' => Message::Type { oid: reader.u32()?, schema: namespace(reader.string()?), name: reader.string()? },
        'I' => {
            let relation = reader.u32()?;
            expect_tuple(&mut reader, b'N')?;
            Message::Insert { relation, new: tuple(&mut reader)? }
        }
        'U' => update(&mut reader)?,
        'D' => {
            let relation = reader.u32()?;
            match reader.u8()? {
                b'K' | b'O' => Message::Delete { relation, old: tuple(&mut reader)? },
                tag => return Err(DecodeError::UnknownTag { what: "tuple", tag }),
            }
        }
        'T' => {
            let count = reader.u32()?;
            let _options = reader.u8()?;
            let relations = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
            Message::Truncate { relations }
        }
        'M' => {
            let flags = reader.u8()?;
            let _lsn = reader.u64()?;
            let prefix = reader.string()?;
            let length = reader.u32()?;
            reader.take(length as usize)?;
            Message::Logical { transactional: flags & 1 == 1, prefix }
        }
        tag => return Err(DecodeError::UnknownTag { what: "message", tag: tag as u8 }),
    };
    reader.finish()?;
    Ok(message)
}

fn relation<'a>(reader: &mut Reader<'a>) -> Result<Relation<'a>, DecodeError> {
    let oid = reader.u32()?;
    let schema = namespace(reader.string()?);
    let name = reader.string()?;
    let replica_identity = reader.u8()?;
    let count = reader.u16()?;
    let columns = (0..count)
        .map(|_| {
            let flags = reader.u8()?;
            let column = Column { in_identity: flags & 1 == 1, name: reader.string()?, type_oid: reader.u32()? };
            let _type_modifier = reader.u32()?;
            Ok(column)
        })
        .collect::<Result<_, DecodeError>>()?;
    Ok(Relation { oid, schema, name, replica_identity, columns })
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = reader.u32()?;
    let old = match reader.u8()? {
        b'K' | b'O' => {
            let old = tuple(reader)?;
            expect_tuple(reader, b'N')?;
            Some(old)
        }
        b'N' => None,
        tag => return Err(DecodeError::UnknownTag { what: "tuple", tag }),
    };
    Ok(Message::Update { relation, old, new: tuple(reader)? })
}

fn expect_tuple(reader: &mut Reader<'_>, expected: u8) -> Result<(), DecodeError> {
    match reader.u8()? {
        tag if tag == expected => Ok(()),
        tag => Err(DecodeError::UnknownTag { what: "tuple", tag }),
    }
}

fn tuple<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    let count = reader.u16()?;
    let values = (0..count)
        .map(|_| match reader.u8()? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => sized(reader).map(Value::Text),
            b'b' => sized(reader).map(Value::Binary),
            tag => Err(DecodeError::UnknownTag { what: "column", tag }),
        })
        .collect::<Result<_, _>>()?;
    Ok(Tuple { values })
}

fn sized<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = reader.u32()?;
    reader.take(length as usize)
}

/// An empty namespace means `pg_catalog` (`logicalrep_write_namespace` in PostgreSQL's `proto.c`).
fn namespace(name: &str) -> &str {
    if name.is_empty() { "pg_catalog" } else { name }
}
