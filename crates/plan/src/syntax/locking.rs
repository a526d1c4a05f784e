//! `FOR UPDATE` and its like: a query that is followed only reads.
//!
//! The syntax tree has no place for them, so the words are found among the tokens.

use std::ops::Range;

use pg_query::protobuf::Token;

use super::tables::for_each_table;
use super::text::{self, with_large_stack};
use crate::model::quote;

/// The locking clauses of a query, in bytes: from FOR to the last of its words.
pub fn locking_clauses(sql: &str) -> Vec<Range<usize>> {
    with_large_stack(|| if locks(sql) { clauses(sql) } else { Vec::new() }).unwrap_or_default()
}

/// Where a query names a table or view in FROM, in bytes.
pub fn place_of_table(sql: &str, schema: &str, name: &str) -> Option<usize> {
    let find = || {
        let mut select = text::parse_select(sql).ok()?;
        let mut found = None;
        for_each_table(&mut select, &mut |table| {
            if table.relname == name && (table.schemaname.is_empty() || table.schemaname == schema) {
                found = found.or(usize::try_from(table.location).ok());
            }
            Ok(())
        })
        .ok()?;
        found
    };
    with_large_stack(find).ok().flatten()
}

/// Where a query calls a function of that name, in bytes.
pub fn place_of_call(sql: &str, name: &str) -> Option<usize> {
    let scanned = pg_query::scan(sql).ok()?;
    let tokens: Vec<_> = scanned
        .tokens
        .iter()
        .filter(|token| !matches!(token.token(), Token::SqlComment | Token::CComment))
        .filter_map(|token| Some((token.token(), usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?)))
        .collect();
    let is_it = |text: &str| text.to_lowercase() == name || text == quote::identifier(name);
    tokens
        .windows(2)
        .find(|pair| pair[1].0 == Token::Ascii40 && sql.get(pair[0].1.clone()).is_some_and(is_it))
        .map(|pair| pair[0].1.start)
}

/// Whether there is a locking clause at all: `substring(a FOR key)` is none.
fn locks(sql: &str) -> bool {
    fn within(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Object(fields) => fields.iter().any(|(name, field)| name == "LockingClause" || within(field)),
            serde_json::Value::Array(items) => items.iter().any(within),
            _ => false,
        }
    }
    text::parse_select(sql).is_ok_and(|select| serde_json::to_value(&select).is_ok_and(|tree| within(&tree)))
}

fn clauses(sql: &str) -> Vec<Range<usize>> {
    let Ok(scanned) = pg_query::scan(sql) else { return Vec::new() };
    let tokens: Vec<(Token, Range<usize>)> = scanned
        .tokens
        .iter()
        .filter(|token| !matches!(token.token(), Token::SqlComment | Token::CComment))
        .map(|token| {
            let at = |position: i32| usize::try_from(position).unwrap_or_default();
            (token.token(), at(token.start)..at(token.end))
        })
        .collect();
    let kind = |index: usize| tokens.get(index).map_or(Token::Nul, |(token, _)| *token);
    let mut found = Vec::new();
    for start in (0..tokens.len()).filter(|&index| kind(index) == Token::For) {
        let strength = match (kind(start + 1), kind(start + 2), kind(start + 3)) {
            (Token::Update | Token::Share, _, _) => 2,
            (Token::Key, Token::Share, _) => 3,
            (Token::No, Token::Key, Token::Update) => 4,
            _ => continue,
        };
        let mut end = start + strength;
        if kind(end) == Token::Of {
            end += 2;
            // Names, perhaps with a schema, and commas between them.
            while matches!(kind(end), Token::Ascii44 | Token::Ascii46) {
                end += 2;
            }
        }
        end += match (kind(end), kind(end + 1)) {
            (Token::Nowait, _) => 1,
            (Token::Skip, Token::Locked) => 2,
            _ => 0,
        };
        if let (Some((_, first)), Some((_, last))) = (tokens.get(start), tokens.get(end - 1)) {
            found.push(first.start..last.end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::locking_clauses;

    #[test]
    fn the_words_to_delete_are_found_wherever_they_stand() {
        let found = |sql: &str| locking_clauses(sql).into_iter().map(|range| sql[range].to_owned()).collect::<Vec<_>>();
        assert_eq!(found("SELECT a FROM t FOR UPDATE"), ["FOR UPDATE"]);
        assert_eq!(found("SELECT a FROM t, u FOR NO KEY UPDATE OF t, u NOWAIT"), ["FOR NO KEY UPDATE OF t, u NOWAIT"]);
        assert_eq!(
            found("SELECT a FROM t, u for /* ! */ no key update of t, u skip locked FOR SHARE OF t NOWAIT"),
            ["for /* ! */ no key update of t, u skip locked", "FOR SHARE OF t NOWAIT"]
        );
        assert_eq!(found("WITH w AS (SELECT a FROM t FOR KEY SHARE) SELECT a FROM w"), ["FOR KEY SHARE"]);
        assert_eq!(found("SELECT (SELECT a FROM t LIMIT 1 FOR UPDATE) FROM u"), ["FOR UPDATE"]);
        assert_eq!(found("SELECT substring(a FROM 1 FOR key), 'FOR UPDATE' FROM t -- FOR UPDATE"), Vec::<String>::new());
    }
}
