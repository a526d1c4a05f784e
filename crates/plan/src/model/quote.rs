//! Quoting of names in generated SQL. Everything is quoted, always: whether a name needs it depends on the server's keyword list.

/// A quoted identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted `schema.name`.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A quoted string literal (with `standard_conforming_strings` on, as it is by default since 9.1).
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        return format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// `"a", "b"`.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    prefixed_list("", names)
}

/// `t."a", t."b"` for the prefix `t.`.
pub(crate) fn prefixed_list<S: AsRef<str>>(prefix: &str, names: &[S]) -> String {
    names.iter().map(|name| format!("{prefix}{}", identifier(name.as_ref()))).collect::<Vec<_>>().join(", ")
}
