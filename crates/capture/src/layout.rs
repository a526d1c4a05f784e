//! Where the identity of a relation's rows stands in its tuples, and the keys that are made of it.

use std::borrow::Cow;

use lockstep_wal::pgoutput::{Tuple, Value};

use crate::tracked::Tracked;

/// A relation's columns as the server announced them: name, and whether it is part of the identity. It announces a relation once,
/// so those that nobody reads yet are kept as well.
pub(crate) type Announced = Vec<(String, bool)>;

/// What a followed relation's tuples look like.
pub(crate) struct Layout {
    /// `schema.name`.
    pub(crate) label: String,
    identity: Identity,
}

enum Identity {
    /// Rows cannot be told apart (no identity, or its columns are not published): every change makes the relation whole.
    Unknown,
    /// The places of the columns.
    Columns(Vec<usize>),
    /// The whole row, as a literal of the table's row type: the places of its columns, none for one that is not delivered.
    Row(Vec<Option<usize>>),
}

impl Layout {
    pub(crate) fn new(tracked: &Tracked, columns: &Announced) -> Self {
        // A column that the server does not treat as identity is missing from old rows, whatever we thought when we started.
        let position = |name: &String| columns.iter().position(|(column, in_identity)| column == name && *in_identity);
        let places: Option<Vec<usize>> =
            if tracked.identity.is_empty() { None } else { tracked.identity.iter().map(position).collect() };
        let identity = match (places, &tracked.row_type) {
            (None, _) => Identity::Unknown,
            (Some(places), None) => Identity::Columns(places),
            (Some(_), Some(row_type)) => {
                // Columns that were added meanwhile come last.
                let added = columns.iter().map(|(name, _)| name).filter(|name| !row_type.contains(name));
                Identity::Row(row_type.iter().map(position).chain(added.map(position)).collect())
            }
        };
        Self { label: tracked.label(), identity }
    }

    /// The number of columns of a key; `None` if there are no keys.
    pub(crate) fn key_columns(&self) -> Option<usize> {
        match &self.identity {
            Identity::Unknown => None,
            Identity::Columns(places) => Some(places.len()),
            Identity::Row(_) => Some(1),
        }
    }

    /// A tuple's key. An unchanged TOASTed value is the old tuple's. `None` if the stream does not tell.
    pub(crate) fn key<'t>(&self, tuple: &Tuple<'t>, old: Option<&Tuple<'t>>) -> Option<Vec<Cow<'t, [u8]>>> {
        match &self.identity {
            Identity::Unknown => None,
            Identity::Columns(places) => places.iter().map(|&place| text(&told(tuple, old, place)?).map(Cow::Borrowed)).collect(),
            Identity::Row(places) => {
                let values = places.iter().map(|place| place.map_or(Some(Value::Null), |place| told(tuple, old, place)));
                Some(vec![Cow::Owned(literal(&values.collect::<Option<Vec<_>>>()?))])
            }
        }
    }
}

/// A column's value, text or NULL; `None` if the stream does not tell.
fn told<'t>(tuple: &Tuple<'t>, old: Option<&Tuple<'t>>, place: usize) -> Option<Value<'t>> {
    let value = match tuple.values.get(place)? {
        Value::Unchanged => old?.values.get(place)?,
        value => value,
    };
    match value {
        Value::Text(_) | Value::Null => Some(*value),
        Value::Unchanged | Value::Binary(_) => None,
    }
}

/// The text of a value that is one.
fn text<'t>(value: &Value<'t>) -> Option<&'t [u8]> {
    match value {
        Value::Text(text) => Some(text),
        Value::Null | Value::Unchanged | Value::Binary(_) => None,
    }
}

/// A row as `record_in` reads it (PostgreSQL's `rowtypes.c`): nothing at all is NULL, quotes and backslashes are doubled.
fn literal(values: &[Value<'_>]) -> Vec<u8> {
    let mut row = Vec::with_capacity(2 + values.iter().map(|value| 3 + text(value).map_or(0, <[u8]>::len)).sum::<usize>());
    row.push(b'(');
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            row.push(b',');
        }
        let Some(text) = text(value) else { continue };
        row.push(b'"');
        for &byte in text {
            if matches!(byte, b'"' | b'\\') {
                row.push(byte);
            }
            row.push(byte);
        }
        row.push(b'"');
    }
    row.push(b')');
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(row_type: Option<&[&str]>, identity: &[&str], announced: &[(&str, bool)]) -> Layout {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let tracked = Tracked {
            oid: 1,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            identity: owned(identity),
            row_type: row_type.map(owned),
            full: true,
            partitioned: false,
        };
        Layout::new(&tracked, &announced.iter().map(|&(name, flag)| (name.to_owned(), flag)).collect())
    }

    fn key(layout: &Layout, new: &[Value<'static>], old: Option<&[Value<'static>]>) -> Option<Vec<String>> {
        let tuple = |values: &[Value<'static>]| Tuple { values: values.to_vec() };
        let key = layout.key(&tuple(new), old.map(tuple).as_ref())?;
        Some(key.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect())
    }

    const A: Value<'_> = Value::Text(b"a");

    #[test]
    fn rows_are_literals_of_the_row_type() {
        let all = [("x", true), ("y", true)];
        let plain = layout(Some(&["x", "y"]), &["x", "y"], &all);
        let row = |new: &[Value<'static>], old| key(&plain, new, old).map(|key| key.concat());
        assert_eq!(row(&[A, Value::Null], None).as_deref(), Some(r#"("a",)"#));
        assert_eq!(row(&[Value::Text(b""), Value::Text(br#"q"b\,)"#)], None).as_deref(), Some(r#"("","q""b\\,)")"#));
        assert_eq!(row(&[A, Value::Unchanged], Some(&[Value::Null, A])).as_deref(), Some(r#"("a","a")"#));
        assert_eq!(row(&[A, Value::Unchanged], None), None);
        // A generated column is not delivered, one that was added meanwhile is.
        let generated = layout(Some(&["x", "g", "y"]), &["x", "y"], &[("x", true), ("y", true), ("z", true)]);
        assert_eq!(key(&generated, &[A, A, Value::Text(b"z")], None), Some(vec![r#"("a",,"a","z")"#.to_owned()]));
    }

    #[test]
    fn what_is_not_identity_makes_no_keys() {
        for announced in [&[("x", true)][..], &[("x", true), ("y", false)]] {
            assert_eq!(layout(Some(&["x", "y"]), &["x", "y"], announced).key_columns(), None);
        }
        let columns = layout(None, &["y"], &[("x", false), ("y", true)]);
        assert_eq!(key(&columns, &[Value::Null, A], None), Some(vec!["a".to_owned()]));
        assert_eq!(key(&columns, &[A, Value::Null], None), None);
    }
}
