//! Which relation is the root, and how the others are looked up from it.
//!
//! The rule: an occurrence X is a *lookup* if the query only ever reads the row of X whose identity equals values computed from
//! occurrences already reached, the root first. Then a change of X's row k can only concern roots whose path leads to k **now**:
//! if the path itself changed, the row that changed it is dirty too and leads to the root. No old state of X is needed
//! (brute-forced in the design's trace experiment: leaving this rule's lookups out makes every history go wrong).

use std::collections::BTreeSet;

use crate::facts::Relation;
use crate::quote;
use crate::shape::{Equality, Occurrence, Shape};

/// How an occurrence is reached: one equality for each column of its relation's identity, in identity order.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) occurrence: usize,
    pub(crate) equalities: Vec<Equality>,
}

/// A root and the hops that reach every other occurrence, in an order in which each depends only on earlier ones.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) root: usize,
    pub(crate) hops: Vec<Hop>,
}

/// Finds the root from which everything else is a lookup.
///
/// # Errors
/// The reason why there is none, naming the occurrence that stands in the way.
pub(crate) fn find(shape: &Shape, relations: &[Relation]) -> Result<Paths, String> {
    let candidates: Vec<usize> =
        (0..shape.occurrences.len()).filter(|&i| shape.occurrences[i].outermost && !shape.occurrences[i].nullable).collect();
    if candidates.is_empty() {
        return Err("no table of its FROM clause is preserved".to_owned());
    }
    let mut first_reason = None;
    for root in candidates {
        match reach_all(root, shape, relations) {
            Ok(hops) => return Ok(Paths { root, hops }),
            Err(reason) => {
                first_reason.get_or_insert(reason);
            }
        }
    }
    Err(first_reason.unwrap_or_default())
}

fn reach_all(root: usize, shape: &Shape, relations: &[Relation]) -> Result<Vec<Hop>, String> {
    let relation = |index: usize| &relations[shape.occurrences[index].relation];
    if relation(root).identity_columns().is_empty() {
        return Err(format!("{} has no primary key and no replica identity index", relation(root).label()));
    }
    if !relation(root).identity_is_plain() {
        return Err(format!("the key of {} has a collation of its own", relation(root).label()));
    }
    let mut reached = BTreeSet::from([root]);
    let mut hops: Vec<Hop> = Vec::new();
    loop {
        let next = (0..shape.occurrences.len())
            .filter(|index| !reached.contains(index))
            .find_map(|index| hop_to(index, relation(index), &reached, shape));
        let Some(hop) = next else { break };
        reached.insert(hop.occurrence);
        hops.push(hop);
    }
    match (0..shape.occurrences.len()).find(|index| !reached.contains(index)) {
        None => Ok(hops),
        Some(index) => Err(unreachable_reason(&shape.occurrences[index], relation(index))),
    }
}

fn hop_to(index: usize, relation: &Relation, reached: &BTreeSet<usize>, shape: &Shape) -> Option<Hop> {
    let identity = relation.identity_columns();
    if identity.is_empty() || !relation.identity_is_plain() {
        return None;
    }
    let equalities = identity
        .iter()
        .map(|column| {
            shape
                .equalities
                .iter()
                .find(|equality| {
                    equality.occurrence == index && &equality.column == column && equality.depends_on.is_subset(reached)
                })
                .cloned()
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Hop { occurrence: index, equalities })
}

fn unreachable_reason(occurrence: &Occurrence, relation: &Relation) -> String {
    let identity = relation.identity_columns();
    if identity.is_empty() {
        return format!("{} has no primary key and no replica identity index", relation.label());
    }
    if !relation.identity_is_plain() {
        return format!("the key of {} has a collation of its own", relation.label());
    }
    format!(
        "{} (as {}) is not joined on its key ({}), so one row may meet many",
        relation.label(),
        quote::identifier(&occurrence.alias),
        identity.join(", ")
    )
}

impl Paths {
    /// The hop that reaches an occurrence; `None` for the root.
    pub(crate) fn hop(&self, occurrence: usize) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.occurrence == occurrence)
    }

    /// The occurrences between the root and `hop`, root and `hop` excluded, in join order.
    pub(crate) fn between(&self, hop: &Hop) -> Vec<&Hop> {
        let mut needed: BTreeSet<usize> =
            hop.equalities.iter().flat_map(|equality| equality.depends_on.iter().copied()).collect();
        for earlier in self.hops.iter().rev() {
            if needed.contains(&earlier.occurrence) {
                needed.extend(earlier.equalities.iter().flat_map(|equality| equality.depends_on.iter().copied()));
            }
        }
        self.hops.iter().filter(|earlier| earlier.occurrence != hop.occurrence && needed.contains(&earlier.occurrence)).collect()
    }
}
