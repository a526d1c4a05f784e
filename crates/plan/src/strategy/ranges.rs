//! Range links: what is joined by a range, an overlap or a prefix.
//!
//! The rule: with P the path from the root to X and C the condition, `trace(x) = π[R.key] σ[C(old x) ∨ C(new x)] P`: the condition itself
//! runs between the path and what the columns of X's dirty rows were and are. Why no root is missed is why none is by equalities: they
//! are such a condition. It costs what the index on the path's side leaves; without one, each batch that changes X reads all of that table.

use std::collections::BTreeSet;

use super::paths::Hop;
use crate::model::facts::{Relation, RelationKind};
use crate::model::index::{Purpose, WantedIndex};
use crate::model::obstacle::Outcome;
use crate::model::quote;
use crate::resolve::{Range, Resolved, Searched, SearchedBy};
use crate::syntax::{change_references, column_reference, print_expression};

/// The columns of the occurrence that a hop's conditions use, in order.
pub(crate) fn columns(hop: &Hop) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for column in hop.ranges.iter().flat_map(|range| &range.columns) {
        if !all.contains(column) {
            all.push(column.clone());
        }
    }
    all
}

/// The conditions with the occurrence's columns read from `d.l1`…, in the order of [`columns`].
pub(crate) fn conditions(hop: &Hop, alias: &str) -> Outcome<Vec<String>> {
    let columns = columns(hop);
    let replaced = |name: &str, column: &str| {
        let position = columns.iter().position(|found| name == alias && found == column)?;
        Some(column_reference("d", &format!("l{}", position + 1)))
    };
    let mut all = Vec::new();
    for range in &hop.ranges {
        let mut condition = range.condition.clone();
        change_references(&mut condition, &replaced)?;
        let text = format!("({})", print_expression(&condition)?);
        if !all.contains(&text) {
            all.push(text);
        }
    }
    Ok(all)
}

/// The indexes that a hop wants: those that the tables lack, and the others' tables that no index helps to find roots in.
pub(crate) struct Wanted {
    pub(crate) missing: Vec<WantedIndex>,
    /// The occurrences whose tables are read whole by a trace, with the index or without.
    pub(crate) scanned: BTreeSet<usize>,
}

pub(crate) fn wanted(hop: &Hop, resolved: &Resolved, relations: &[Relation]) -> Wanted {
    let mut found = Wanted { missing: Vec::new(), scanned: BTreeSet::new() };
    let others: BTreeSet<usize> = hop.ranges.iter().flat_map(|range| range.depends_on.iter().copied()).collect();
    for occurrence in others.iter().copied().chain([hop.occurrence]) {
        let Some(relation) = resolved.table(occurrence).map(|index| &relations[index]) else { continue };
        let of = |range: &Range| -> Vec<Searched> {
            range.searched.iter().filter(|searched| searched.occurrence == occurrence).cloned().collect()
        };
        // One index is enough for several conditions that must hold; of an OR each operand needs its own.
        let mut any: Vec<Searched> = hop.ranges.iter().filter(|range| !range.is_or).flat_map(of).collect();
        // Of intervals with a lower and an upper bound a B-tree finds those by one of them alone, which may be half of all.
        let by_content = |searched: &Searched| searched.by == SearchedBy::Content && index(searched, relation).is_some();
        if any.iter().any(by_content) {
            any.retain(by_content);
        }
        let needed = if any.is_empty() {
            hop.ranges.iter().find(|range| range.is_or).map(of).unwrap_or_default()
        } else {
            let has =
                |searched: &&Searched| index(searched, relation).is_some_and(|wanted| is_there(&wanted, searched, relation));
            any.iter().find(has).or_else(|| any.iter().find(|one| index(one, relation).is_some())).into_iter().cloned().collect()
        };
        let lacking: Vec<WantedIndex> = needed
            .iter()
            .filter_map(|searched| index(searched, relation).filter(|wanted| !is_there(wanted, searched, relation)))
            .collect();
        if occurrence != hop.occurrence && (needed.is_empty() || !lacking.is_empty()) {
            found.scanned.insert(occurrence);
        }
        for wanted in lacking {
            if !found.missing.contains(&wanted) {
                found.missing.push(wanted);
            }
        }
    }
    found
}

/// The index by which a column's rows are found; none where PostgreSQL has none without an extension.
fn index(searched: &Searched, relation: &Relation) -> Option<WantedIndex> {
    let type_name = relation.column(&searched.column)?.type_name.as_str();
    let purpose = match searched.by {
        // A block's text may be longer than a B-tree takes.
        SearchedBy::Order if relation.kind == RelationKind::Projection && ["text", "bytea", "jsonb"].contains(&type_name) => {
            return None;
        }
        SearchedBy::Order => Purpose::Order,
        SearchedBy::Content if type_name.ends_with("[]") || type_name == "jsonb" => Purpose::Elements,
        SearchedBy::Content if type_name.ends_with("range") || ["box", "circle", "polygon"].contains(&type_name) => {
            Purpose::Overlap
        }
        SearchedBy::Content => return None,
    };
    let keys = vec![quote::identifier(&searched.column)];
    Some(WantedIndex { schema: relation.schema.clone(), table: relation.name.clone(), keys, purpose })
}

fn is_there(wanted: &WantedIndex, searched: &Searched, relation: &Relation) -> bool {
    match wanted.purpose {
        Purpose::Overlap | Purpose::Elements => relation.searchable.contains(&searched.column),
        Purpose::Equality | Purpose::Order | Purpose::Expressions => {
            relation.indexes.iter().any(|index| index.first() == Some(&searched.column))
        }
    }
}
