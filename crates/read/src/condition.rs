//! Filters: `column=operator.value`.

use crate::error::ReadError;
use crate::table::Column;

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Eq,
    /// Not equal; NULL is not equal to anything, and not different either, as in SQL.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// One of a list.
    In,
    /// SQL's LIKE; `*` may be written for `%`.
    Like,
    /// The same, in any case.
    Ilike,
    /// NULL, or not.
    Is,
    /// A full-text search on a tsvector column.
    Fts,
}

impl Operator {
    /// Every operator with its name in requests.
    pub const ALL: [(&'static str, Self); 11] = [
        ("eq", Self::Eq),
        ("ne", Self::Ne),
        ("lt", Self::Lt),
        ("lte", Self::Lte),
        ("gt", Self::Gt),
        ("gte", Self::Gte),
        ("in", Self::In),
        ("like", Self::Like),
        ("ilike", Self::Ilike),
        ("is", Self::Is),
        ("fts", Self::Fts),
    ];

    /// Whether a column's values can be compared so.
    pub fn is_for(self, column: &Column) -> bool {
        match self {
            Self::Eq | Self::Ne | Self::Lt | Self::Lte | Self::Gt | Self::Gte | Self::In => column.is_comparable(),
            Self::Like | Self::Ilike => column.category == 'S',
            Self::Is => true,
            Self::Fts => column.is_text_vector(),
        }
    }
}

/// Values of one list.
const VALUES_MAX: usize = 1_000;

/// A filter, not yet checked against a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The parameter as the client wrote it, for messages.
    pub parameter: String,
    /// The column.
    pub column: String,
    /// The comparison.
    pub operator: Operator,
    /// One value; any number for `in`; `null` or `notnull` for `is`.
    pub values: Vec<String>,
    /// Whether it says what is looked at, and is no choice among it: facets of its column heed it, too.
    pub is_scope: bool,
}

impl Condition {
    /// A comparison with one value.
    pub fn new(parameter: &str, column: &str, operator: Operator, value: impl Into<String>) -> Self {
        Self { parameter: parameter.to_owned(), column: column.to_owned(), operator, values: vec![value.into()], is_scope: false }
    }

    /// Any of some values.
    pub fn any_of(parameter: &str, column: &str, mut values: Vec<String>) -> Self {
        let operator = if values.len() == 1 { Operator::Eq } else { Operator::In };
        values.dedup();
        Self { parameter: parameter.to_owned(), column: column.to_owned(), operator, values, is_scope: false }
    }

    /// The same as what is looked at.
    #[must_use]
    pub fn scope(mut self) -> Self {
        self.is_scope = true;
        self
    }

    /// Conditions of a client, where values of one column that were given apart, or as lists, mean any of them.
    ///
    /// # Errors
    /// Too many values: names the parameter.
    pub fn merged(conditions: Vec<Self>) -> Result<Vec<Self>, ReadError> {
        let chosen = |condition: &Self| matches!(condition.operator, Operator::Eq | Operator::In) && !condition.is_scope;
        let mut merged: Vec<Self> = Vec::with_capacity(conditions.len());
        for condition in conditions {
            let same = |other: &&mut Self| chosen(&condition) && chosen(other) && other.column == condition.column;
            match merged.iter_mut().find(same) {
                Some(other) => {
                    other.operator = Operator::In;
                    other.values.extend(condition.values);
                    if other.values.len() > VALUES_MAX {
                        return Err(ReadError::bad(condition.parameter, format!("a list has at most {VALUES_MAX} values")));
                    }
                }
                None => merged.push(condition),
            }
        }
        Ok(merged)
    }

    /// Reads `operator.value`, for example `gte.100`, `in.(a,"b,c")`, `is.null`.
    ///
    /// # Errors
    /// It is not of that form: names the parameter.
    pub fn parse(parameter: &str, column: &str, text: &str) -> Result<Self, ReadError> {
        let names = || Operator::ALL.map(|(name, _)| name).join(", ");
        let found = text.split_once('.').and_then(|(name, value)| {
            let operator = Operator::ALL.iter().find(|(known, _)| *known == name)?.1;
            Some((operator, value))
        });
        let Some((operator, value)) = found else {
            let example = format!("write operator.value, for example eq.{}; the operators are {}", shortened(text), names());
            return Err(ReadError::bad(parameter, example));
        };
        let values = match operator {
            Operator::In => {
                let values = list(value).ok_or_else(|| ReadError::bad(parameter, "write a list as in.(a,b,\"c,d\")"))?;
                if values.len() > VALUES_MAX {
                    return Err(ReadError::bad(parameter, format!("a list has at most {VALUES_MAX} values")));
                }
                values
            }
            Operator::Is if value != "null" && value != "notnull" => {
                return Err(ReadError::bad(parameter, "write is.null or is.notnull"));
            }
            Operator::Eq
            | Operator::Ne
            | Operator::Lt
            | Operator::Lte
            | Operator::Gt
            | Operator::Gte
            | Operator::Like
            | Operator::Ilike
            | Operator::Is
            | Operator::Fts => vec![value.to_owned()],
        };
        Ok(Self { parameter: parameter.to_owned(), column: column.to_owned(), operator, values, is_scope: false })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(20).collect()
}

/// `(a,"b,c")`
fn list(text: &str) -> Option<Vec<String>> {
    values(text.strip_prefix('(')?.strip_suffix(')')?)
}

/// `a,"b,c"`: in quotes a backslash keeps the next character as it is. `None` if a quote is left open.
pub fn values(inner: &str) -> Option<Vec<String>> {
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let mut values = vec![String::new()];
    let mut characters = inner.chars();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let value = values.last_mut()?;
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => value.push(characters.next()?),
            ',' if !quoted => values.push(String::new()),
            other => value.push(other),
        }
    }
    (!quoted).then_some(values)
}

pub(crate) fn where_clause(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!("\nWHERE {}", conditions.join("\n  AND ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_column_that_are_given_apart_mean_any_of_them() {
        let parse = |column: &str, text: &str| Condition::parse(column, column, text).unwrap();
        let merged = Condition::merged(vec![
            parse("brand", "eq.a"),
            parse("price", "gte.1"),
            parse("brand", "in.(b,c)"),
            parse("price", "lte.9"),
            Condition::new("path", "brand", Operator::Eq, "d").scope(),
            parse("brand", "eq.e"),
        ]);
        let shown: Vec<_> =
            merged.unwrap().into_iter().map(|found| (found.column, found.operator, found.values.join("+"))).collect();
        let of = |column: &str, operator, values: &str| (column.to_owned(), operator, values.to_owned());
        assert_eq!(
            shown,
            [
                of("brand", Operator::In, "a+b+c+e"),
                of("price", Operator::Gte, "1"),
                of("price", Operator::Lte, "9"),
                of("brand", Operator::Eq, "d")
            ]
        );
        let many = vec![parse("brand", &format!("in.({})", vec!["1"; 1000].join(","))), parse("brand", "eq.1")];
        assert!(Condition::merged(many).is_err());
    }

    #[test]
    fn conditions() {
        let parsed = Condition::parse("price", "price", "gte.1.5").map(|condition| (condition.operator, condition.values));
        assert_eq!(parsed, Ok((Operator::Gte, vec!["1.5".to_owned()])));
        let parsed = Condition::parse("b", "b", "in.(a,\"b,c\",\"d\\\"e\",)").map(|condition| condition.values);
        assert_eq!(parsed, Ok(vec!["a".to_owned(), "b,c".to_owned(), "d\"e".to_owned(), String::new()]));
        assert_eq!(Condition::parse("b", "b", "in.()").map(|condition| condition.values), Ok(Vec::new()));
        let long = format!("in.({})", vec!["1"; 1001].join(","));
        for bad in [long.as_str(), "", "5", "gt", "between.1", "in.a,b", "in.(\"a)", "is.", "is.5"] {
            assert!(Condition::parse("b", "b", bad).is_err(), "{bad}");
        }
    }
}
