//! The rows of a query in an order that both sides agree on, page by page.

use tokio_postgres::Client;

/// Rows fetched at once.
const PAGE_ROWS: usize = 5_000;

/// A row, as the texts of its columns.
pub(crate) type Row = Vec<Option<String>>;

/// A part of the rows, chosen by a hash of their key, so that both sides choose alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Rows of ten thousand.
    pub per_ten_thousand: u32,
    /// Another seed chooses others.
    pub seed: String,
}

/// Rows sorted by their key's bytes.
pub(crate) struct SortedRows<'a> {
    session: &'a Client,
    cursor: &'static str,
    key: Vec<usize>,
    page: std::vec::IntoIter<Row>,
    next: Option<Row>,
}

/// What rows are read.
pub(crate) struct Reading<'a> {
    /// A FROM item's body: a query in parentheses, or a table.
    pub(crate) from: &'a str,
    pub(crate) columns: &'a [String],
    /// Positions of the key's columns.
    pub(crate) key: &'a [usize],
    /// Keys that are left out: positions of columns, and their values.
    pub(crate) without: &'a (Vec<usize>, Vec<Row>),
    pub(crate) sample: Option<&'a Sample>,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', "''"));
    if text.contains('\\') { format!("E{}", quoted.replace('\\', "\\\\")) } else { quoted }
}

impl Reading<'_> {
    fn text(&self, position: usize) -> String {
        format!("q.{}::text", quote(&self.columns[position]))
    }

    /// The statement. The order is that of the texts' bytes, whatever the servers' collations.
    fn select(&self) -> String {
        let texts: Vec<String> = (0..self.columns.len()).map(|position| self.text(position)).collect();
        let keys: Vec<String> = self.key.iter().map(|&position| self.text(position)).collect();
        let mut conditions = Vec::new();
        if let Some(Sample { per_ten_thousand, seed }) = self.sample {
            let image = format!("ROW({})::text", keys.join(", "));
            let seed = literal(seed);
            conditions.push(format!("('x' || left(md5({seed} || {image}), 7))::bit(28)::integer % 10000 < {per_ten_thousand}"));
        }
        let (positions, left_out) = self.without;
        for key in left_out {
            let same = positions.iter().zip(key).map(|(&position, value)| {
                let value = value.as_deref().map_or("NULL".to_owned(), literal);
                format!("{} IS NOT DISTINCT FROM {value}", self.text(position))
            });
            conditions.push(format!("NOT ({})", same.collect::<Vec<_>>().join(" AND ")));
        }
        let filter = if conditions.is_empty() { String::new() } else { format!("\nWHERE {}", conditions.join("\n  AND ")) };
        let order: Vec<String> = keys.iter().map(|key| format!("convert_to({key}, 'UTF8') NULLS LAST")).collect();
        let order = if order.is_empty() { String::new() } else { format!("\nORDER BY {}", order.join(", ")) };
        format!("SELECT {}\nFROM {} AS q{filter}{order}", texts.join(", "), self.from)
    }
}

impl<'a> SortedRows<'a> {
    /// Opens a cursor. The session must be inside a transaction.
    pub(crate) async fn open(
        session: &'a Client,
        cursor: &'static str,
        reading: &Reading<'_>,
    ) -> Result<Self, tokio_postgres::Error> {
        session.batch_execute(&format!("DECLARE {cursor} NO SCROLL CURSOR FOR {}", reading.select())).await?;
        let mut rows = Self { session, cursor, key: reading.key.to_vec(), page: Vec::new().into_iter(), next: None };
        rows.advance().await?;
        Ok(rows)
    }

    async fn advance(&mut self) -> Result<(), tokio_postgres::Error> {
        self.next = self.page.next();
        if self.next.is_none() {
            let rows = self.session.query(&format!("FETCH {PAGE_ROWS} FROM {}", self.cursor), &[]).await?;
            let texts = |row: &tokio_postgres::Row| (0..row.len()).map(|column| row.get(column)).collect::<Row>();
            self.page = rows.iter().map(texts).collect::<Vec<_>>().into_iter();
            self.next = self.page.next();
        }
        Ok(())
    }

    /// The key of the next rows; `None` at the end.
    pub(crate) fn key(&self) -> Option<Vec<Option<&[u8]>>> {
        let row = self.next.as_ref()?;
        Some(self.key.iter().map(|&position| row[position].as_deref().map(str::as_bytes)).collect())
    }

    /// All rows that have the next key.
    pub(crate) async fn take_group(&mut self) -> Result<Vec<Row>, tokio_postgres::Error> {
        let mut group = Vec::new();
        while let Some(row) = &self.next {
            let same = group.first().is_none_or(|first: &Row| self.key.iter().all(|&position| first[position] == row[position]));
            if !same {
                break;
            }
            group.extend(self.next.take());
            self.advance().await?;
        }
        Ok(group)
    }

    pub(crate) async fn close(self) -> Result<(), tokio_postgres::Error> {
        self.session.batch_execute(&format!("CLOSE {}", self.cursor)).await
    }
}
