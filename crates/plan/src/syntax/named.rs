//! What a query's text names in FROM.

use std::collections::BTreeSet;

use super::tables::for_each_table;
use super::text::{parse_select, with_large_stack};

/// Schema (empty where none is written) and name of every table, view or WITH query that a query names, each once; nothing if it does not
/// parse.
pub fn tables_named(sql: &str) -> Vec<(String, String)> {
    let find = || {
        let mut select = parse_select(sql).ok()?;
        let mut found = BTreeSet::new();
        for_each_table(&mut select, &mut |table| {
            found.insert((table.schemaname.clone(), table.relname.clone()));
            Ok(())
        })
        .ok()?;
        Some(found.into_iter().collect())
    };
    with_large_stack(find).ok().flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::tables_named;

    #[test]
    fn names_at_any_depth() {
        let found = tables_named(
            "WITH w AS (SELECT a FROM s.t) SELECT a FROM w JOIN \"S\".u ON true WHERE a IN (SELECT b FROM v) AND a > (SELECT max(c) FROM s.t)",
        );
        let named: Vec<(&str, &str)> = found.iter().map(|(schema, name)| (schema.as_str(), name.as_str())).collect();
        assert_eq!(named, [("", "v"), ("", "w"), ("S", "u"), ("s", "t")]);
        assert!(tables_named("SELECT FROM FROM").is_empty());
    }
}
