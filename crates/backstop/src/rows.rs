//! The rows of a query in an order that both sides agree on, page by page.

use std::collections::HashSet;

use lockstep_connect::Text;
use tokio_postgres::Client;

/// Rows fetched at once.
const PAGE_ROWS: usize = 5_000;

/// A row, as the texts of its columns.
pub(crate) type Row = Vec<Option<Text>>;

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
    without: (Vec<usize>, HashSet<Row>),
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
    /// Whether rows are computed: then keys that are left out must not be, because they fail. A table may have no such texts at all, in
    /// its encoding.
    pub(crate) computes: bool,
    /// Keys that are left out: positions of columns, and their values.
    pub(crate) without: &'a (Vec<usize>, Vec<Row>),
    pub(crate) sample: Option<&'a Sample>,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Reading<'_> {
    fn text(&self, position: usize) -> String {
        format!("q.{}::text", quote(&self.columns[position]))
    }

    /// The statement. The order is that of the texts' bytes, whatever the servers' collations.
    fn select(&self) -> String {
        let texts: Vec<String> = (0..self.columns.len()).map(|position| self.text(position)).collect();
        let keys = self.key.iter().map(|&position| self.text(position));
        // Where there is no encoding, nothing can be converted.
        let unicode = "CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END";
        let order: Vec<String> = keys.map(|key| format!("convert_to({key}, {unicode}) NULLS LAST")).collect();
        let order = if order.is_empty() { String::new() } else { format!("\nORDER BY {}", order.join(", ")) };
        format!("SELECT {}\nFROM {} AS q{}{order}", texts.join(", "), self.from, self.filter())
    }

    /// The number of the rows and two sums of their hashes.
    pub(crate) fn digest(&self) -> String {
        let texts: Vec<String> = (0..self.columns.len()).map(|position| self.text(position)).collect();
        let image = format!("(ROW({})::text COLLATE \"C\")", texts.join(", "));
        let sum = |seed: u8| format!("coalesce(sum(hashtextextended({image}, {seed})), 0)::text");
        format!("SELECT count(*), {}, {}\nFROM {} AS q{}", sum(0), sum(1), self.from, self.filter())
    }

    /// Which rows are read.
    fn filter(&self) -> String {
        let keys: Vec<String> = self.key.iter().map(|&position| self.text(position)).collect();
        let mut conditions = Vec::new();
        if let Some(Sample { per_ten_thousand, seed }) = self.sample {
            let image = format!("ROW({})::text", keys.join(", "));
            let seed = Text::from(seed.as_str()).sql_literal();
            conditions.push(format!("('x' || left(md5({seed} || {image}), 7))::bit(28)::integer % 10000 < {per_ten_thousand}"));
        }
        let (positions, left_out) = self.without;
        for key in left_out.iter().filter(|_| self.computes) {
            let same = positions.iter().zip(key).map(|(&position, value)| {
                let value = value.as_ref().map_or("NULL".to_owned(), Text::sql_literal);
                format!("{} IS NOT DISTINCT FROM {value}", self.text(position))
            });
            conditions.push(format!("NOT ({})", same.collect::<Vec<_>>().join(" AND ")));
        }
        if conditions.is_empty() { String::new() } else { format!("\nWHERE {}", conditions.join("\n  AND ")) }
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
        let without = (reading.without.0.clone(), reading.without.1.iter().cloned().collect());
        let mut rows = Self { session, cursor, key: reading.key.to_vec(), without, page: Vec::new().into_iter(), next: None };
        rows.advance().await?;
        Ok(rows)
    }

    async fn advance(&mut self) -> Result<(), tokio_postgres::Error> {
        loop {
            self.next = self.page.next();
            if self.next.is_none() {
                let rows = self.session.query(&format!("FETCH {PAGE_ROWS} FROM {}", self.cursor), &[]).await?;
                let texts = |row: &tokio_postgres::Row| (0..row.len()).map(|column| row.get(column)).collect::<Row>();
                self.page = rows.iter().map(texts).collect::<Vec<_>>().into_iter();
                self.next = self.page.next();
            }
            if !self.next.as_ref().is_some_and(|row| self.leaves_out(row)) {
                return Ok(());
            }
        }
    }

    fn leaves_out(&self, row: &Row) -> bool {
        let (positions, keys) = &self.without;
        !keys.is_empty() && keys.contains(&positions.iter().map(|&position| row[position].clone()).collect::<Row>())
    }

    /// The key of the next rows; `None` at the end.
    pub(crate) fn key(&self) -> Option<Vec<Option<&[u8]>>> {
        let row = self.next.as_ref()?;
        Some(self.key.iter().map(|&position| row[position].as_ref().map(Text::as_bytes)).collect())
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
