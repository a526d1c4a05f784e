//! FROM items of random queries: tables, views, subqueries, whole queries.

use rand::Rng as _;

use super::{Column, DEEPEST, Item, Kind, Maker, TABLES};

impl Maker {
    /// A whole query as a FROM item, with those of its columns whose kind can be seen; `None` if there are none.
    fn nested(&mut self) -> Option<(String, Item)> {
        let scope = std::mem::take(&mut self.scope);
        self.depth += 1;
        let query = self.query();
        self.depth -= 1;
        let kinds: Vec<Option<Kind>> = query.select.iter().map(|value| self.kind_of(value)).collect();
        self.scope = scope;
        let columns: Vec<(String, Kind)> =
            kinds.iter().enumerate().filter_map(|(n, kind)| Some((format!("c{}", n + 1), (*kind)?))).collect();
        let alias = self.alias();
        (!columns.is_empty()).then(|| (format!("({})", query.sql()), Item::merging(alias, columns)))
    }

    /// The kind of a selected value, where its text tells it.
    fn kind_of(&self, value: &str) -> Option<Kind> {
        let counted = ["count(", "rank("].iter().any(|start| value.starts_with(start));
        if counted || value.ends_with("::bigint") {
            return Some(Kind::Number);
        }
        if value.ends_with("::text") || value.starts_with("upper(") {
            return Some(Kind::Text);
        }
        let (alias, column) = value.split_once('.')?;
        let item = self.scope.iter().find(|item| item.alias == alias)?;
        item.columns.iter().find(|(name, _)| name == column).map(|(_, kind)| *kind)
    }

    /// A table, a view, or a subquery; as text and as an item.
    pub(super) fn source(&mut self) -> (String, Item) {
        if self.depth < DEEPEST
            && self.chance(12)
            && let Some(nested) = self.nested()
        {
            return nested;
        }
        let (table, columns) = self.pick(TABLES);
        let alias = self.alias();
        let owned = |columns: &[Column]| columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect::<Vec<_>>();
        match self.random.random_range(0..12) {
            0 => {
                let group = self.pick(columns);
                let text = format!("(SELECT i.{0}, count(*) AS n FROM {table} i GROUP BY i.{0})", group.0);
                (text, Item::merging(alias, vec![(group.0.to_owned(), group.1), ("n".to_owned(), Kind::Number)]))
            }
            1 => {
                let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
                let first = columns[0];
                let text = format!("(SELECT {} FROM {table} i WHERE i.{} IS NOT NULL)", names.join(", "), first.0);
                (text, Item::new(alias, owned(columns)))
            }
            2 => {
                let shown = self.pick(columns);
                let text = format!("(SELECT DISTINCT i.{} FROM {table} i)", shown.0);
                (text, Item::merging(alias, vec![(shown.0.to_owned(), shown.1)]))
            }
            3 => {
                // The first few of each, and gaps.
                let (key, by) = (columns[0], self.pick(columns));
                let window = format!("(PARTITION BY i.{} ORDER BY i.{})", by.0, key.0);
                let text = format!("(SELECT i.{}, i.{}, row_number() OVER {window} AS place FROM {table} i)", key.0, by.0);
                let mut shown = owned(&[key, by]);
                shown.dedup();
                if shown.len() < 2 {
                    return (table.to_owned(), Item::new(alias, owned(columns)));
                }
                shown.push(("place".to_owned(), Kind::Number));
                (text, Item::new(alias, shown))
            }
            4 => {
                let shown = self.pick(columns);
                let operation = self.pick(&["EXCEPT", "EXCEPT ALL", "INTERSECT", "INTERSECT ALL", "UNION", "UNION ALL"]);
                let text = format!(
                    "(SELECT i.{0} FROM {table} i {operation} SELECT j.{0} FROM {table} j WHERE j.{1} IS NOT NULL)",
                    shown.0, columns[1].0
                );
                (text, Item::merging(alias, vec![(shown.0.to_owned(), shown.1)]))
            }
            5 => self.recursion(alias),
            6 => {
                // Of a line the first column is not the whole key.
                let (key, by) = (columns[0], self.pick(columns));
                if table == "shop.line" || by.0 == key.0 {
                    return (table.to_owned(), Item::new(alias, owned(columns)));
                }
                let direction = self.pick(&["", " DESC", " DESC NULLS LAST"]);
                let order = self.pick(&[format!("i.{}{direction}, i.{}", by.0, key.0), format!("i.{}{direction}", key.0)]);
                let filter = if self.chance(30) { format!(" WHERE i.{} IS NOT NULL", by.0) } else { String::new() };
                let text = format!("(SELECT i.{}, i.{} FROM {table} i{filter} ORDER BY {order} LIMIT 4)", key.0, by.0);
                (text, Item::new(alias, owned(&[key, by])))
            }
            _ => (table.to_owned(), Item::new(alias, owned(columns))),
        }
    }

    /// Employees below some, or above them, as deep as circles allow.
    fn recursion(&mut self, alias: String) -> (String, Item) {
        let union = self.pick(&["UNION", "UNION ALL"]);
        let start = self.pick(&["i.manager_id IS NULL", "i.id % 4 = 0", "i.region_code = 'r2'"]);
        let tie = self.pick(&["j.manager_id = h.id", "j.id = h.manager_id"]);
        let more = self.pick(&["", " JOIN shop.region r ON r.code = j.region_code", " LEFT JOIN shop.customer c ON c.id = j.id"]);
        let shown = self.pick(&[
            "h.id, h.manager_id, h.n",
            "h.manager_id AS id, h.id AS manager_id, h.n",
            "h.id, h.top AS manager_id, h.n",
        ]);
        let text = format!(
            "(WITH RECURSIVE h AS (SELECT i.id, i.manager_id, i.id AS top, 1 AS n FROM shop.employee i WHERE {start}
               {union} SELECT j.id, j.manager_id, h.top, h.n + 1 FROM h JOIN shop.employee j ON {tie}{more} WHERE h.n < 4) SELECT {shown} FROM h)"
        );
        let columns = ["id", "manager_id", "n"].map(|name| (name.to_owned(), Kind::Number));
        (text, Item::new(alias, columns.to_vec()))
    }
}
