//! Whether two sides have the same rows, without moving any: their number, and two sums of 64-bit hashes of what they print.
//!
//! Equal multisets have equal sums. Rows that differ have equal ones with a probability of 2⁻¹²⁸: the hashes are PostgreSQL's own
//! (`hashtextextended`, by which it also partitions; the same on every version and machine of one byte order) with two seeds. PostgreSQL
//! computes this in parallel, and neither sorts nor sends anything. Whatever differs is looked for row by row afterwards.

use tokio_postgres::Client;

use crate::rows::Reading;

/// What is told about the rows of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: i64,
    sums: [String; 2],
}

/// Computes the digest of some rows. The session must be inside a transaction.
pub(crate) async fn digest(session: &Client, reading: &Reading<'_>) -> Result<Digest, tokio_postgres::Error> {
    let row = session.query_one(&reading.digest(), &[]).await?;
    Ok(Digest { rows: row.get(0), sums: [row.get(1), row.get(2)] })
}

/// Whether digests of two sides mean the same: texts are hashed as they are stored, so both must have one encoding.
pub(crate) async fn have_one_encoding(one: &Client, other: &Client) -> Result<bool, tokio_postgres::Error> {
    let encoding = "SELECT getdatabaseencoding()::text";
    let (one, other) = tokio::try_join!(one.query_one(encoding, &[]), other.query_one(encoding, &[]))?;
    Ok(one.get::<_, String>(0) == other.get::<_, String>(0))
}
