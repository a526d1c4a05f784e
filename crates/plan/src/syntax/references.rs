//! What a tree refers to, at any depth: the names before its columns, and the names that its FROM clauses give.

use std::collections::BTreeSet;

use pg_query::protobuf::SelectStmt;
use serde_json::Value;

/// What follows the first name of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing: it is a column without its table, or a table as a whole row.
    Nothing,
    /// `.*`: a whole row.
    Star,
    /// A name.
    Name,
}

/// Visits the references of a tree, those inside its subqueries too: the first name, and what follows it.
///
/// # Errors
/// The tree cannot be serialised.
pub(crate) fn for_each_reference(tree: &impl serde::Serialize, visit: &mut dyn FnMut(&str, After)) -> Result<(), String> {
    fn within(value: &Value, visit: &mut dyn FnMut(&str, After)) {
        let after = |fields: &Value| match fields.pointer("/fields/1/node") {
            None => After::Nothing,
            Some(second) if second.get("String").is_some() => After::Name,
            Some(_) => After::Star,
        };
        for (name, field) in fields(value) {
            if name == "ColumnRef"
                && let Some(Value::String(first)) = field.pointer("/fields/0/node/String/sval")
            {
                visit(first, after(field));
            }
        }
        inner(value).for_each(|value| within(value, visit));
    }
    within(&serialised(tree)?, visit);
    Ok(())
}

/// The names by which the tables and subqueries in a tree are referred to.
///
/// # Errors
/// The tree cannot be serialised.
pub(crate) fn names_of(tree: &impl serde::Serialize) -> Result<BTreeSet<String>, String> {
    fn within(value: &Value, found: &mut BTreeSet<String>) {
        // Under an alias a table's own name is not to be referred to.
        let hidden = value.get("alias").is_some_and(|alias| !alias.is_null());
        for (name, field) in fields(value) {
            if (name == "aliasname" || (name == "relname" && !hidden))
                && let Value::String(text) = field
            {
                found.insert(text.clone());
            }
        }
        inner(value).for_each(|value| within(value, found));
    }
    let mut found = BTreeSet::new();
    within(&serialised(tree)?, &mut found);
    Ok(found)
}

/// Whether a subquery refers to nothing around it. References to what is around are printed qualified.
///
/// # Errors
/// The tree cannot be serialised.
pub(crate) fn is_self_contained(select: &SelectStmt) -> Result<bool, String> {
    let names = names_of(select)?;
    let mut contained = true;
    for_each_reference(select, &mut |first, after| contained &= after == After::Nothing || names.contains(first))?;
    Ok(contained)
}

/// The names that may be used as whole rows: `s.*`, and `s` where it is no column.
///
/// # Errors
/// The tree cannot be serialised.
pub(crate) fn whole_rows(select: &SelectStmt) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for_each_reference(select, &mut |first, after| {
        if after != After::Name {
            found.insert(first.to_owned());
        }
    })?;
    Ok(found)
}

fn serialised(tree: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(tree).map_err(|error| error.to_string())
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn inner(value: &Value) -> impl Iterator<Item = &Value> {
    let items = value.as_array().into_iter().flatten();
    items.chain(fields(value).map(|(_, field)| field))
}

#[cfg(test)]
mod tests {
    use super::{is_self_contained, whole_rows};
    use crate::syntax::parse_select;

    #[test]
    fn a_table_under_an_alias_is_not_what_is_around() {
        let contained = |sql: &str| is_self_contained(&parse_select(sql).unwrap()).unwrap();
        assert!(contained("SELECT max(u.n) FROM s.u"));
        assert!(contained("SELECT max(x.n) FROM s.u x WHERE EXISTS (SELECT 1 FROM s.v WHERE v.a = x.a)"));
        assert!(!contained("SELECT max(x.n) FROM s.u x WHERE x.a = u.b"));
    }

    #[test]
    fn rows_are_seen_wherever_they_are_used() {
        let rows = |sql: &str| whole_rows(&parse_select(sql).unwrap()).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(rows("SELECT s.a, to_jsonb(s.*) FROM s"), ["s"]);
        assert_eq!(rows("SELECT t.a FROM t WHERE (SELECT r IS NOT NULL FROM r)"), ["r"]);
        assert_eq!(rows("SELECT t.a FROM t"), [""; 0]);
    }
}
