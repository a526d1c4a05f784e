//! Traces: from the dirty keys of a lookup to the root keys they concern.

use crate::facts::Relation;
use crate::lookup::{Hop, Paths};
use crate::quote;
use crate::shape::{Equality, Occurrence, Shape};

/// `unnest($1::text[], $2::text[]) AS d(d1, d2)` for the given number of key columns, parameters counted from 1.
pub(crate) fn unnest(columns: usize) -> String {
    let parameters: Vec<String> = (1..=columns).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<String> = (1..=columns).map(|n| format!("d{n}")).collect();
    format!("unnest({}) AS d({})", parameters.join(", "), names.join(", "))
}

/// The trace query of a lookup: dirty keys in `$1::text[]`…, root keys out as text columns `k1`….
pub(crate) fn query(paths: &Paths, hop: &Hop, shape: &Shape, relations: &[Relation]) -> String {
    let occurrence = |index: usize| &shape.occurrences[index];
    let relation = |index: usize| &relations[occurrence(index).relation];
    let root = occurrence(paths.root);
    let root_alias = quote::identifier(&root.alias);
    let keys: Vec<String> = relation(paths.root)
        .identity_columns()
        .iter()
        .enumerate()
        .map(|(position, column)| format!("{root_alias}.{}::text AS k{}", quote::identifier(column), position + 1))
        .collect();
    let mut from = from_item(relation(paths.root), root);
    for step in paths.between(hop) {
        let conditions: Vec<String> =
            step.equalities.iter().map(|equality| condition(equality, occurrence(step.occurrence))).collect();
        let item = from_item(relation(step.occurrence), occurrence(step.occurrence));
        from.push_str(&format!("\nJOIN {item} ON {}", conditions.join(" AND ")));
    }
    let values: Vec<&str> = hop.equalities.iter().map(|equality| equality.value.as_str()).collect();
    let dirty: Vec<String> = hop
        .equalities
        .iter()
        .enumerate()
        .map(|(position, equality)| {
            let column_type = relation(hop.occurrence).column(&equality.column).map_or("text", |column| &column.type_name);
            equality.cast_dirty(&format!("d.d{}::{column_type}", position + 1))
        })
        .collect();
    format!(
        "SELECT DISTINCT {}\nFROM {from}\nWHERE ({}) IN (SELECT {} FROM {})",
        keys.join(", "),
        values.join(", "),
        dirty.join(", "),
        unnest(dirty.len())
    )
}

fn from_item(relation: &Relation, occurrence: &Occurrence) -> String {
    format!("{} AS {}", quote::qualified(&relation.schema, &relation.name), quote::identifier(&occurrence.alias))
}

fn condition(equality: &Equality, occurrence: &Occurrence) -> String {
    format!("{} = ({})", equality.column_sql(occurrence), equality.value)
}

/// The index that the trace of `hop` needs on the referring side and the source lacks, as a statement to run there.
pub(crate) fn missing_index(hop: &Hop, shape: &Shape, relations: &[Relation]) -> Option<String> {
    let referring = hop.equalities.first()?.depends_on.iter().next().copied()?;
    let relation = &relations[shape.occurrences[referring].relation];
    let wanted: Vec<String> = hop
        .equalities
        .iter()
        .map(|equality| equality.value_column.as_ref().map(|(_, column)| column.clone()))
        .collect::<Option<_>>()?;
    let covers = |index: &Vec<String>| {
        let leading = index.iter().take(wanted.len());
        index.len() >= wanted.len() && leading.into_iter().all(|column| wanted.contains(column))
    };
    if relation.indexes.iter().any(covers) {
        return None;
    }
    Some(format!(
        "CREATE INDEX CONCURRENTLY ON {} ({});",
        quote::qualified(&relation.schema, &relation.name),
        quote::list(&wanted)
    ))
}
