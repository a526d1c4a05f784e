//! The statements of a build: rows of a range of root keys, written to a table that has none of them.

use super::parts::{Places, names};
use crate::model::plan::{Branch, Plan, Root};
use crate::model::quote;
use crate::model::trace::unnest;

/// What one page of a build runs. A range of root keys is bound as text: the key after which it begins, then the key up to which it goes,
/// inclusive; NULLs where it has no such bound.
#[derive(Debug, Clone)]
pub struct BuildPage {
    /// The table that the rows go to, quoted.
    pub table: String,
    /// The rows of a range.
    pub query: String,
    columns: Vec<String>,
    root: Root,
}

impl BuildPage {
    /// A page of a branch: its rows, or its contributions.
    pub fn of(plan: &Plan, branch: &Branch, places: &Places) -> Self {
        let (table, columns) = match &branch.contributions {
            Some(state) => (quote::qualified(&places.state_schema, &state.name), state.columns.clone()),
            None => (quote::qualified(&places.schema, &plan.projection), names(plan)),
        };
        let root = branch.root.clone();
        // In parentheses, because it may begin with a WITH of its own.
        let by_cte = || format!("WITH {}\nSELECT * FROM (\n{}\n) AS rows_of_range", range_cte(&root), branch.dirty_query);
        let query = branch.page_query.clone().unwrap_or_else(by_cte);
        Self { table, query, columns, root }
    }

    /// The values to bind for a range.
    pub fn range<'a, T>(&self, after: Option<&'a [T]>, until: Option<&'a [T]>) -> Vec<Option<&'a T>> {
        let key = |bound: Option<&'a [T]>| (0..self.root.key.len()).map(move |n| bound.and_then(|key| key.get(n)));
        key(after).chain(key(until)).collect()
    }

    /// Inserts the rows of a range where source and target are one database.
    pub fn insert(&self) -> String {
        format!("INSERT INTO {} ({})\n{}", self.table, quote::list(&self.columns), self.query)
    }

    /// Inserts what was brought from another database, a FROM item with the table's columns.
    pub fn insert_from(&self, staged: &str) -> String {
        let columns = quote::list(&self.columns);
        format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {staged}", self.table)
    }

    /// The root keys of a range, as text columns.
    pub fn keys(&self) -> String {
        let values = self.root.values("r");
        let texts: Vec<String> = values.iter().map(|value| format!("{value}::text")).collect();
        format!("SELECT {} FROM {} AS r WHERE {}", texts.join(", "), self.root_table(), self.root.in_range(&values))
    }

    /// The next root keys after those bound to `$1`…, as text columns, in their order; from the start if not `after`.
    pub fn next_keys(&self, after: bool, page_rows: usize) -> String {
        let values = self.root.values("r");
        let texts: Vec<String> = values.iter().map(|value| format!("{value}::text")).collect();
        let (table, rest) = (self.root_table(), self.rest(after));
        format!("SELECT {} FROM {table} AS r{rest} ORDER BY {} LIMIT {page_rows}", texts.join(", "), values.join(", "))
    }

    /// The last root key of each page of so many rows, at most so many pages, as text columns. Fewer pages than that: the branch ends.
    pub fn ends(&self, after: bool, page_rows: usize, pages: usize) -> String {
        let values = self.root.values("r");
        let keys: Vec<String> = values.iter().enumerate().map(|(n, value)| format!("{value} AS k{}", n + 1)).collect();
        let texts: Vec<String> = (1..=values.len()).map(|n| format!("k{n}::text")).collect();
        let order = values.join(", ");
        format!(
            "SELECT {} FROM (\n  SELECT {}, row_number() OVER (ORDER BY {order}) AS \"lockstep:row\"\n  FROM {} AS r{}\n  ORDER BY {order} LIMIT {}\n) AS numbered\n\
             WHERE \"lockstep:row\" % {page_rows} = 0 ORDER BY \"lockstep:row\"",
            texts.join(", "),
            keys.join(", "),
            self.root_table(),
            self.rest(after),
            page_rows.saturating_mul(pages),
        )
    }

    /// Of the root keys bound to `$1::text[]`…, as text columns: those without a row, and where `after`, those with a row that is not after
    /// the values bound next. The rows of the others are not built yet. Each is looked up by its key: as a join, PostgreSQL may well read
    /// all that is after.
    pub fn built(&self, after: bool) -> String {
        let columns = self.root.key.len();
        let values = self.root.values("r");
        let texts: Vec<String> = (1..=columns).map(|n| format!("d.d{n}")).collect();
        let same: Vec<String> = values
            .iter()
            .zip(&self.root.key)
            .enumerate()
            .map(|(n, (value, (_, type_name)))| format!("{value} = d.d{}::{type_name}", n + 1))
            .collect();
        let is_built = if after { format!("({}) <= ({})", values.join(", "), self.bound(columns)) } else { "false".to_owned() };
        format!(
            "SELECT {}\nFROM {}\nWHERE coalesce((\n  SELECT bool_and({is_built}) FROM {} AS r\n  WHERE {}\n), true)",
            texts.join(", "),
            unnest(columns),
            self.root_table(),
            same.join(" AND "),
        )
    }

    fn root_table(&self) -> String {
        quote::qualified(&self.root.schema, &self.root.name)
    }

    fn rest(&self, after: bool) -> String {
        let values = self.root.values("r").join(", ");
        if after { format!(" WHERE ({values}) > ({})", self.bound(0)) } else { String::new() }
    }

    /// Key values that are bound as text after `before` others.
    fn bound(&self, before: usize) -> String {
        let typed = self.root.key.iter().enumerate().map(|(n, (_, type_name))| format!("${}::text::{type_name}", before + n + 1));
        typed.collect::<Vec<_>>().join(", ")
    }
}

/// `dirty AS (…)`: the root keys of a range.
fn range_cte(root: &Root) -> String {
    let values = root.values("r");
    let keys: Vec<String> = values.iter().enumerate().map(|(n, value)| format!("{value} AS k{}", n + 1)).collect();
    let table = quote::qualified(&root.schema, &root.name);
    format!("dirty AS MATERIALIZED (\n  SELECT {} FROM {table} AS r WHERE {}\n)", keys.join(", "), root.in_range(&values))
}
