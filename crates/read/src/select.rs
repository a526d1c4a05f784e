//! From a query to SQL: rows, their number, and facets, all with the same conditions.

use std::collections::HashSet;

use lockstep_plan::quote;

use crate::condition::{Condition, Operator, where_clause};
use crate::cube::{Counted, Cube};
use crate::cursor;
use crate::error::ReadError;
use crate::facet;
use crate::query::{Highlight, OrderBy, Query, TextSearch, Total, Window};
use crate::table::{Column, Table};

/// SQL with its values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    /// Bound as texts.
    pub(crate) values: Vec<String>,
}

/// A value of the request and the type that it must be of; to find out which one PostgreSQL refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Typed {
    pub(crate) parameter: String,
    pub(crate) value: String,
    pub(crate) type_name: String,
}

/// Everything that one request asks of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statements {
    /// Each row: its JSON, and the values of its order as texts. One more row than asked for tells that there is another page.
    pub(crate) rows: Statement,
    pub(crate) total: Option<Statement>,
    pub(crate) facets: Vec<(String, Statement)>,
    pub(crate) typed: Vec<Typed>,
    pub(crate) limit: usize,
}

/// Makes the SQL over `from`, an item for FROM without its alias. Rows are counted in the cube, given with its own item for FROM, where
/// that tells.
pub(crate) fn statements(
    query: &Query,
    table: &Table,
    from: &str,
    cube: Option<(&Cube, &str)>,
    text_config: &str,
) -> Result<Statements, ReadError> {
    let counted_in = |but: Option<&str>| match cube {
        Some((cube, from)) if cube.decides(query, but) => Counted::Cube(from.to_owned()),
        Some(_) | None => Counted::Rows(from.to_owned()),
    };
    let mut maker = Maker { table, from, text_config, typed: Vec::new(), seen: HashSet::new() };
    let rows = maker.rows(query)?;
    let total = match query.total {
        Total::None => None,
        Total::Exact => Some(maker.counted(query, &counted_in(None))?),
        Total::Estimated => Some(maker.estimated(query)?),
    };
    let mut facets = Vec::new();
    for wanted in &query.facets {
        let column = table.column("facets", &wanted.column)?;
        if !column.is_comparable() {
            return Err(ReadError::bad("facets", format!("the values of \"{}\" cannot be counted", wanted.column)));
        }
        let mut statement = Statement::default();
        // Who has chosen one value wants to see the others.
        let conditions = maker.conditions_but(query, Some(&wanted.column), &mut statement)?;
        let counted = match cube {
            Some((cube, _)) if cube.columns.contains(&wanted.column) => counted_in(Some(&wanted.column)),
            Some(_) | None => Counted::Rows(from.to_owned()),
        };
        statement.sql = facet::sql(column, &counted, &conditions);
        if facets.len() == FACETS_MAX || facets.iter().any(|(name, _)| *name == wanted.name) {
            return Err(ReadError::bad("facets", format!("give each once, and at most {FACETS_MAX}")));
        }
        facets.push((wanted.name.clone(), statement));
    }
    let limit = match query.window {
        Window::Page { limit, .. } | Window::After { limit, .. } => limit as usize,
    };
    Ok(Statements { rows, total, facets, typed: maker.typed, limit })
}

/// Facets of one request at most: each reads all rows that are found.
const FACETS_MAX: usize = 10;

/// What has a meaning in HTML, and how it is written there; the ampersand first.
const HTML_ESCAPES: [(&str, &str); 4] = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;")];

struct Maker<'a> {
    table: &'a Table,
    from: &'a str,
    text_config: &'a str,
    typed: Vec<Typed>,
    seen: HashSet<Typed>,
}

/// An expression to order by.
struct Sorted {
    expression: String,
    type_name: String,
    not_null: bool,
    descending: bool,
}

impl Maker<'_> {
    /// Binds a value and returns it as an expression of the type.
    fn bind(&mut self, statement: &mut Statement, parameter: &str, value: &str, type_name: &str) -> String {
        statement.values.push(value.to_owned());
        let typed = Typed { parameter: parameter.to_owned(), value: value.to_owned(), type_name: type_name.to_owned() };
        if self.seen.insert(typed.clone()) {
            self.typed.push(typed);
        }
        format!("${}::text::{type_name}", statement.values.len())
    }

    fn rows(&mut self, query: &Query) -> Result<Statement, ReadError> {
        let mut statement = Statement::default();
        let mut shown = Vec::new();
        for column in &self.table.columns {
            let wanted = if query.columns.is_empty() { !column.is_text_vector() } else { query.columns.contains(&column.name) };
            if wanted {
                shown.push(format!("t.{}", quote::identifier(&column.name)));
            }
        }
        for name in &query.columns {
            self.table.column("select", name)?;
        }
        if let Some(highlight) = &query.highlight {
            shown.push(self.highlights(query, highlight, &mut statement)?);
        }
        let mut conditions = self.conditions(query, &mut statement)?;
        let sorted = self.order(query, &mut statement)?;
        let (limit, offset) = match &query.window {
            Window::Page { page, limit } => (*limit, u64::from(page.saturating_sub(1)) * u64::from(*limit)),
            Window::After { cursor, limit } => {
                if cursor.is_some() && self.table.key.is_empty() {
                    return Err(ReadError::bad("after", "nothing identifies a row here: use page"));
                }
                if let Some(cursor) = cursor {
                    let values = cursor::decode(cursor, sorted.len())?;
                    conditions.push(self.after(&sorted, &values, &mut statement));
                }
                (*limit, 0)
            }
        };
        let order: Vec<String> = sorted
            .iter()
            .map(|sorted| format!("{} {}", sorted.expression, if sorted.descending { "DESC" } else { "ASC" }))
            .collect();
        // Without a key the order is not total, and no row tells where the next page begins.
        let ended = if self.table.key.is_empty() { &[][..] } else { sorted.as_slice() };
        let cursor: Vec<String> = ended.iter().map(|sorted| format!("{}::text", sorted.expression)).collect();
        statement.sql = format!(
            "SELECT (SELECT row_to_json(\"lockstep:row\")::text FROM (SELECT {}) AS \"lockstep:row\"), ARRAY[{}]::text[]\nFROM {} AS t{}{}\nLIMIT {} OFFSET {offset}",
            shown.join(", "),
            cursor.join(", "),
            self.from,
            where_clause(&conditions),
            if order.is_empty() { String::new() } else { format!("\nORDER BY {}", order.join(", ")) },
            u64::from(limit) + 1,
        );
        Ok(statement)
    }

    fn counted(&mut self, query: &Query, counted: &Counted) -> Result<Statement, ReadError> {
        let mut statement = Statement::default();
        let conditions = self.conditions(query, &mut statement)?;
        statement.sql = format!("SELECT {} FROM {} AS t{}", counted.total(), counted.from(), where_clause(&conditions));
        Ok(statement)
    }

    fn estimated(&mut self, query: &Query) -> Result<Statement, ReadError> {
        let mut statement = Statement::default();
        let conditions = self.conditions(query, &mut statement)?;
        statement.sql = format!("EXPLAIN (FORMAT JSON) SELECT FROM {} AS t{}", self.from, where_clause(&conditions));
        Ok(statement)
    }

    fn conditions(&mut self, query: &Query, statement: &mut Statement) -> Result<Vec<String>, ReadError> {
        self.conditions_but(query, None, statement)
    }

    /// The conditions, without those by which a client chooses among the values of a column.
    fn conditions_but(
        &mut self,
        query: &Query,
        column: Option<&str>,
        statement: &mut Statement,
    ) -> Result<Vec<String>, ReadError> {
        let mut conditions = Vec::new();
        for condition in &query.conditions {
            if column == Some(condition.column.as_str()) && !condition.is_scope {
                continue;
            }
            conditions.push(self.condition(condition, statement)?);
        }
        if let Some(text) = &query.text {
            conditions.push(match &text.similar {
                None => format!("t.{} @@ {}", quote::identifier(&text.column), self.text_query(text, statement)),
                Some(similar) => {
                    let input = self.bind(statement, &text.parameter, &text.input, "text");
                    // The operator, so that a trigram index on the column is used.
                    format!("{input} OPERATOR({}.<%) t.{}", similar.trigrams, quote::identifier(&similar.column))
                }
            });
        }
        Ok(conditions)
    }

    fn text_query(&mut self, text: &TextSearch, statement: &mut Statement) -> String {
        let input = self.bind(statement, &text.parameter, &text.input, "text");
        format!("websearch_to_tsquery({}, {input})", quote::literal(self.text_config))
    }

    fn condition(&mut self, condition: &Condition, statement: &mut Statement) -> Result<String, ReadError> {
        let column = self.table.column(&condition.parameter, &condition.column)?;
        let parameter = condition.parameter.as_str();
        let name = column.value();
        let first = condition.values.first().map(String::as_str).unwrap_or_default();
        if !condition.operator.is_for(column) {
            let (name, type_name) = (&column.name, &column.type_name);
            let detail = match condition.operator {
                Operator::Like | Operator::Ilike => format!("like is for texts; \"{name}\" is {type_name}"),
                Operator::Fts => format!("fts is for tsvector columns; \"{name}\" is {type_name}"),
                Operator::Eq
                | Operator::Ne
                | Operator::Lt
                | Operator::Lte
                | Operator::Gt
                | Operator::Gte
                | Operator::In
                | Operator::Is => format!("\"{name}\" cannot be compared: it is {type_name}"),
            };
            return Err(ReadError::bad(parameter, detail));
        }
        let comparison = match condition.operator {
            Operator::Eq => "=",
            Operator::Ne => "<>",
            Operator::Lt => "<",
            Operator::Lte => "<=",
            Operator::Gt => ">",
            Operator::Gte => ">=",
            Operator::In => return Ok(self.one_of(condition, column, &name, statement)),
            Operator::Is => return Ok(format!("{name} IS {}", if first == "null" { "NULL" } else { "NOT NULL" })),
            Operator::Like | Operator::Ilike => {
                let pattern = self.bind(statement, parameter, &first.replace('*', "%"), "text");
                let like = if condition.operator == Operator::Like { "LIKE" } else { "ILIKE" };
                return Ok(format!("{name} {like} {pattern}"));
            }
            Operator::Fts => {
                let input = self.bind(statement, parameter, first, "text");
                return Ok(format!("{name} @@ websearch_to_tsquery({}, {input})", quote::literal(self.text_config)));
            }
        };
        let value = self.bind(statement, parameter, first, &column.type_name);
        Ok(format!("{name} {comparison} {value}"))
    }

    fn one_of(&mut self, condition: &Condition, column: &Column, name: &str, statement: &mut Statement) -> String {
        let values: Vec<String> =
            condition.values.iter().map(|value| self.bind(statement, &condition.parameter, value, &column.type_name)).collect();
        if values.is_empty() { "false".to_owned() } else { format!("{name} IN ({})", values.join(", ")) }
    }

    /// `highlight`: for each column its text with `<mark>` around what was found, safe to put into HTML.
    fn highlights(&mut self, query: &Query, wanted: &Highlight, statement: &mut Statement) -> Result<String, ReadError> {
        let Some(text) = &query.text else {
            return Err(ReadError::bad("highlight", "there is no full-text search whose words could be marked"));
        };
        let mut parts = Vec::new();
        for name in &wanted.columns {
            let column = self.table.column("highlight", name)?;
            if column.category != 'S' {
                return Err(ReadError::bad("highlight", format!("\"{name}\" is no text")));
            }
            let escaped = HTML_ESCAPES.iter().fold(format!("coalesce(t.{}, '')", quote::identifier(name)), |text, (from, to)| {
                format!("replace({text}, {}, {})", quote::literal(from), quote::literal(to))
            });
            let search = self.text_query(text, statement);
            parts.push(format!(
                "{}, ts_headline({}, {escaped}, {search}, 'StartSel=<mark>, StopSel=</mark>, MaxFragments=2, MinWords=5, MaxWords=20')",
                quote::literal(name),
                quote::literal(self.text_config)
            ));
        }
        Ok(format!("json_build_object({}) AS highlight", parts.join(", ")))
    }

    fn order(&mut self, query: &Query, statement: &mut Statement) -> Result<Vec<Sorted>, ReadError> {
        let mut sorted: Vec<Sorted> = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for order in &query.order {
            match &order.by {
                OrderBy::Column(name) => {
                    let column = self.table.column(&order.parameter, name)?;
                    if !column.is_comparable() {
                        return Err(ReadError::bad(&order.parameter, format!("rows cannot be ordered by \"{name}\"")));
                    }
                    if names.contains(&name.as_str()) {
                        return Err(ReadError::bad(&order.parameter, format!("\"{name}\" stands twice in the order")));
                    }
                    names.push(name);
                    sorted.push(by_column(column, order.descending));
                }
                OrderBy::Rank => {
                    let Some(text) = &query.text else {
                        return Err(ReadError::bad(&order.parameter, "there is no full-text search to rank by"));
                    };
                    let expression = self.rank(text, statement);
                    sorted.push(Sorted {
                        expression,
                        type_name: "real".to_owned(),
                        not_null: true,
                        descending: order.descending,
                    });
                }
            }
        }
        // The last direction goes on, so that an index in that order can be used.
        let descending = query.order.last().is_some_and(|order| order.descending && order.by != OrderBy::Rank);
        for name in &self.table.key {
            if let (false, Some(column)) =
                (names.contains(&name.as_str()), self.table.columns.iter().find(|column| &column.name == name))
            {
                sorted.push(by_column(column, descending));
            }
        }
        Ok(sorted)
    }

    fn rank(&mut self, text: &TextSearch, statement: &mut Statement) -> String {
        match &text.similar {
            None => format!("ts_rank(t.{}, {})", quote::identifier(&text.column), self.text_query(text, statement)),
            Some(similar) => {
                let input = self.bind(statement, &text.parameter, &text.input, "text");
                format!("{}.word_similarity({input}, t.{})", similar.trigrams, quote::identifier(&similar.column))
            }
        }
    }

    /// The rows that come after a row, whose values may be NULL. NULL counts as larger than everything, as in ORDER BY.
    fn after(&mut self, sorted: &[Sorted], values: &[Option<String>], statement: &mut Statement) -> String {
        let mut alternatives = Vec::new();
        let mut same = Vec::new();
        let mut sargable = None;
        for (sorted, value) in sorted.iter().zip(values) {
            let expression = &sorted.expression;
            let bound = value.as_ref().map(|value| self.bind(statement, "after", value, &sorted.type_name));
            let later = match (&bound, sorted.descending) {
                (Some(bound), false) if sorted.not_null => format!("{expression} > {bound}"),
                (Some(bound), false) => format!("({expression} > {bound} OR {expression} IS NULL)"),
                (Some(bound), true) => format!("{expression} < {bound}"),
                (None, false) => "false".to_owned(),
                (None, true) => format!("{expression} IS NOT NULL"),
            };
            // An index can begin where the page before ended, which it would not see in the alternatives.
            if alternatives.is_empty() {
                sargable = match (&bound, sorted.descending) {
                    (Some(bound), true) => Some(format!("{expression} <= {bound}")),
                    (Some(bound), false) if sorted.not_null => Some(format!("{expression} >= {bound}")),
                    (Some(_) | None, _) => None,
                };
            }
            alternatives.push(same.iter().cloned().chain([later]).collect::<Vec<String>>().join(" AND "));
            same.push(match bound {
                Some(bound) => format!("{expression} = {bound}"),
                None => format!("{expression} IS NULL"),
            });
        }
        let any = format!("(({}))", alternatives.join(") OR ("));
        sargable.map_or(any.clone(), |sargable| format!("{sargable} AND {any}"))
    }
}

fn by_column(column: &Column, descending: bool) -> Sorted {
    Sorted { expression: column.value(), type_name: column.type_name.clone(), not_null: column.not_null, descending }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Order;
    use crate::table::JsonKind;

    fn table() -> Table {
        let column = |name: &str, type_name: &str, category, not_null| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            category,
            not_null,
            base: type_name.to_owned(),
            json: if category == 'N' { JsonKind::Number } else { JsonKind::Text },
            is_sortable: true,
            is_enum: false,
        };
        Table {
            columns: vec![
                column("id", "uuid", 'U', true),
                column("na\"me", "text", 'S', false),
                column("price", "numeric", 'N', false),
                column("v", "tsvector", 'U', false),
            ],
            key: vec!["id".to_owned()],
            trigrams: None,
        }
    }

    fn query() -> Query {
        Query {
            columns: Vec::new(),
            conditions: Vec::new(),
            text: None,
            order: Vec::new(),
            window: Window::After { cursor: None, limit: 10 },
            total: Total::None,
            facets: Vec::new(),
            highlight: None,
        }
    }

    #[test]
    fn values_never_reach_the_text_and_names_are_quoted() {
        let mut wanted = query();
        let evil = "'; DROP TABLE x; --";
        wanted.conditions.push(Condition::new("na\"me", "na\"me", Operator::Eq, evil));
        wanted.conditions.push(Condition::new("price", "price", Operator::Gte, evil));
        let made = statements(&wanted, &table(), "s.t", None, "english").map(|made| made.rows);
        let sql = made.as_ref().map(|made| made.sql.clone()).unwrap_or_default();
        assert!(!sql.contains("DROP"), "{sql}");
        assert!(sql.contains("t.\"na\"\"me\" = $1::text::text") && sql.contains("t.\"price\" >= $2::text::numeric"), "{sql}");
        assert_eq!(made.map(|made| made.values), Ok(vec![evil.to_owned(), evil.to_owned()]));
    }

    #[test]
    fn a_cursor_knows_about_nulls() {
        let mut wanted = query();
        wanted.order.push(Order { parameter: "order".to_owned(), by: OrderBy::Column("price".to_owned()), descending: true });
        wanted.window = Window::After { cursor: Some(cursor::encode(&[None, Some("7".to_owned())])), limit: 10 };
        let sql = statements(&wanted, &table(), "s.t", None, "english").map(|made| made.rows.sql).unwrap_or_default();
        assert!(sql.contains("((t.\"price\" IS NOT NULL) OR (t.\"price\" IS NULL AND t.\"id\" < $1::text::uuid))"), "{sql}");
        wanted.order[0].descending = false;
        wanted.window = Window::After { cursor: Some(cursor::encode(&[Some("1".to_owned()), Some("7".to_owned())])), limit: 10 };
        let sql = statements(&wanted, &table(), "s.t", None, "english").map(|made| made.rows.sql).unwrap_or_default();
        assert!(sql.contains("(t.\"price\" > $1::text::numeric OR t.\"price\" IS NULL)"), "{sql}");
    }

    #[test]
    fn what_is_wrong_names_its_parameter() {
        let mut wanted = query();
        wanted.conditions.push(Condition::new("filter.x", "x", Operator::Eq, "1"));
        let error = statements(&wanted, &table(), "s.t", None, "english").err();
        assert!(matches!(error, Some(ReadError::BadRequest { parameter, .. }) if parameter == "filter.x"));
    }
}
