//! Which relation is the root, and how the others are reached from it.
//!
//! The rules, brute-forced in the design's trace experiment:
//!
//! * X is a *lookup* if the query only ever reads the row of X whose identity equals values computed from occurrences already reached,
//!   the root first. Then a change of X's row k can only concern roots whose path leads to k **now**: if the path itself changed, the row
//!   that changed it is dirty too and leads to the root. No old state of X is needed.
//! * X is a *link* if the rows of X that matter are those where some expressions over X equal values computed from occurrences already
//!   reached. The expressions' old values concern roots as well as the new ones, so they are kept, unless the identity holds them.
//! * X is a *range link* if the rows of X that matter are those that satisfy a condition which an index can narrow, over columns of X and of
//!   occurrences already reached. Those columns' old values are kept, unless the identity holds them.
//! * Anything else cannot be traced: a change of it concerns every root.

use std::collections::BTreeSet;

use crate::model::facts::{Identity, Relation, RelationKind};
use crate::model::obstacle::Obstacle;
use crate::model::quote;
use crate::resolve::{Equality, Place, Range, Resolved, Rows, Source};
use crate::syntax::print_expression;

/// How an occurrence is reached.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) occurrence: usize,
    /// For a lookup one for each column of the identity, in identity order. For a link, all there are. For a call, none.
    pub(crate) equalities: Vec<Equality>,
    /// For a range link, the conditions.
    pub(crate) ranges: Vec<Range>,
    pub(crate) kind: HopKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HopKind {
    /// By the identity: at most one row.
    Lookup,
    /// By columns of the identity, not all of them: any number of rows, and the dirty key tells which roots they met.
    KeyLink,
    /// By other expressions, whose old values are kept.
    Link,
    /// By conditions, whose columns' old values are kept where the identity does not hold them.
    Range,
    /// A function of what was reached.
    Call,
}

/// A root and the hops from it, in an order in which each depends only on earlier ones.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) root: usize,
    pub(crate) hops: Vec<Hop>,
    /// The occurrences that no hop reaches, with the reason.
    pub(crate) unreached: Vec<(usize, String)>,
}

/// The paths from every possible root, the cheapest to maintain first. `preferred` tells whether a root's key is among the columns.
pub(crate) fn find(resolved: &Resolved, relations: &[Relation], preferred: &dyn Fn(usize) -> bool) -> Result<Paths, String> {
    let candidates = (0..resolved.occurrences.len()).filter(|&index| {
        let occurrence = &resolved.occurrences[index];
        occurrence.place == Place::Row && !occurrence.nullable && !occurrence.inert && resolved.table(index).is_some()
    });
    // A single row is the root of what has no other.
    let mut found: Vec<((bool, Cost), Paths)> = Vec::new();
    let mut reason = None;
    for root in candidates {
        match why_not_traceable(resolved, root, relations) {
            Some(why) => {
                reason.get_or_insert(why);
            }
            None => {
                let paths = from_root(root, resolved, relations);
                let single = is_single(root, resolved, relations);
                found.push(((single, cost(&paths, resolved, relations, preferred(root))), paths));
            }
        }
    }
    // Of equals the first in the query.
    found.sort_by_key(|(cost, _)| *cost);
    match found.into_iter().next() {
        Some((_, paths)) => Ok(paths),
        None => Err(reason.unwrap_or_else(|| "no table of its FROM clause is preserved in every row".to_owned())),
    }
}

/// Smaller is better, the first component first: what cannot be traced; tables of which many rows meet one root row, so that a change
/// of one concerns the others; a root key that is not in the result; range links; links that need state; links.
type Cost = (usize, usize, bool, usize, usize, usize);

fn is_single(index: usize, resolved: &Resolved, relations: &[Relation]) -> bool {
    resolved.table(index).is_some_and(|found| relations[found].single_row)
}

fn cost(paths: &Paths, resolved: &Resolved, relations: &[Relation], key_selected: bool) -> Cost {
    let untied = paths.unreached.iter().filter(|(index, _)| !is_single(*index, resolved, relations)).count();
    let hops = || paths.hops.iter().filter(|hop| !resolved.occurrences[hop.occurrence].inert);
    let is_link = |hop: &&Hop| matches!(hop.kind, HopKind::Link | HopKind::KeyLink | HopKind::Range);
    let many = hops().filter(is_link).filter(|hop| resolved.occurrences[hop.occurrence].place == Place::Row).count();
    let count = |kind: HopKind| hops().filter(|hop| hop.kind == kind).count();
    (untied, many, !key_selected, count(HopKind::Range), count(HopKind::Link), count(HopKind::KeyLink))
}

fn why_not_traceable(resolved: &Resolved, index: usize, relations: &[Relation]) -> Option<String> {
    let relation = &relations[resolved.table(index)?];
    if relation.identity_columns().is_empty() && relation.kind == RelationKind::Projection {
        return Some(format!("the rows of {} have no key that is never NULL", relation.label()));
    }
    if relation.identity_columns().is_empty() {
        let because = match &relation.identity {
            Identity::FullRow { because: Some(because) } => format!(", and {because}"),
            Identity::FullRow { because: None } | Identity::Columns { .. } | Identity::None => String::new(),
        };
        return Some(format!("{} has no primary key and no replica identity index{because}", relation.label()));
    }
    if !relation.identity_is_plain() {
        return Some(format!("the key of {} has a collation of its own", relation.label()));
    }
    None
}

/// The paths from a given root.
pub(crate) fn from_root(root: usize, resolved: &Resolved, relations: &[Relation]) -> Paths {
    let mut reached = BTreeSet::from([root]);
    // NOT IN concerns more roots than those whose value is equal, so nothing can be reached through it.
    let mut usable = reached.clone();
    // What follows from the root, and not from constants alone.
    let mut tied = reached.clone();
    let mut hops: Vec<Hop> = Vec::new();
    loop {
        let waiting: Vec<usize> = (0..resolved.occurrences.len()).filter(|index| !reached.contains(index)).collect();
        // Lookups first: they need no state. Equalities before ranges: a value concerns fewer roots.
        let next = waiting
            .iter()
            .find_map(|&index| lookup(index, resolved, relations, &usable))
            .or_else(|| waiting.iter().find_map(|&index| link(index, resolved, relations, &usable, &tied)))
            .or_else(|| waiting.iter().find_map(|&index| range(index, resolved, relations, &usable, &tied)));
        let Some(hop) = next else { break };
        reached.insert(hop.occurrence);
        if hop.depends_on(resolved).iter().any(|index| tied.contains(index)) {
            tied.insert(hop.occurrence);
        }
        if !hop.concerns_more() {
            usable.insert(hop.occurrence);
        }
        hops.push(hop);
    }
    let unreached = (0..resolved.occurrences.len())
        .filter(|&index| !reached.contains(&index) && !resolved.occurrences[index].inert)
        .map(|index| (index, unreachable_reason(resolved, index, relations)))
        .collect();
    Paths { root, hops, unreached }
}

fn lookup(index: usize, resolved: &Resolved, relations: &[Relation], usable: &BTreeSet<usize>) -> Option<Hop> {
    let relation = match &resolved.occurrences[index].source {
        Source::Table(relation) => &relations[*relation],
        Source::Function(_, depends_on) => {
            let hop = || Hop { occurrence: index, equalities: Vec::new(), ranges: Vec::new(), kind: HopKind::Call };
            return depends_on.is_subset(usable).then(hop);
        }
    };
    // The tables of an inheritance family may each have a row of that key.
    if why_not_traceable(resolved, index, relations).is_some() || relation.kind == RelationKind::InheritanceParent {
        return None;
    }
    let equalities = relation
        .identity_columns()
        .iter()
        .map(|column| {
            let of_column =
                || usable_equalities(index, resolved, usable).filter(|equality| equality.column.as_ref() == Some(column));
            // What treats NULL as false is worth more than NOT IN, which concerns every root with a NULL.
            of_column().find(|equality| !equality.nulls.concern_more()).or_else(|| of_column().next()).cloned()
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Hop { occurrence: index, equalities, ranges: Vec::new(), kind: HopKind::Lookup })
}

fn link(
    index: usize,
    resolved: &Resolved,
    relations: &[Relation],
    usable: &BTreeSet<usize>,
    tied: &BTreeSet<usize>,
) -> Option<Hop> {
    if why_not_traceable(resolved, index, relations).is_some() {
        return None;
    }
    let identity = relations[resolved.table(index)?].identity_columns();
    let all: Vec<Equality> = usable_equalities(index, resolved, usable).cloned().collect();
    let (plain, null_aware): (Vec<_>, Vec<_>) = all.into_iter().partition(|equality| !equality.nulls.concern_more());
    let is_tied = |equality: &Equality| equality.depends_on.iter().any(|index| tied.contains(index));
    // As above. NOT IN has all its columns compared: rows that differ in one are no members.
    let mut equalities = if plain.iter().any(is_tied) { plain } else { null_aware };
    equalities.dedup_by(|a, b| a.side_sql == b.side_sql && a.value == b.value);
    // Rows that are tied to constants alone concern every root, and any number of them may.
    if !equalities.iter().any(is_tied) {
        return None;
    }
    let in_identity = |equality: &Equality| equality.column.as_ref().is_some_and(|column| identity.contains(column));
    let kind = if equalities.iter().all(in_identity) { HopKind::KeyLink } else { HopKind::Link };
    Some(Hop { occurrence: index, equalities, ranges: Vec::new(), kind })
}

fn range(
    index: usize,
    resolved: &Resolved,
    relations: &[Relation],
    usable: &BTreeSet<usize>,
    tied: &BTreeSet<usize>,
) -> Option<Hop> {
    let relation = &relations[resolved.table(index)?];
    // A single row has its own rule.
    if why_not_traceable(resolved, index, relations).is_some() || relation.single_row {
        return None;
    }
    let of_it = |range: &&Range| range.occurrence == index && range.depends_on.is_subset(usable);
    let ranges: Vec<Range> = resolved.ranges.iter().filter(of_it).cloned().collect();
    let is_tied = ranges.iter().flat_map(|range| &range.depends_on).any(|index| tied.contains(index));
    is_tied.then_some(Hop { occurrence: index, equalities: Vec::new(), ranges, kind: HopKind::Range })
}

fn usable_equalities<'a>(
    index: usize,
    resolved: &'a Resolved,
    usable: &'a BTreeSet<usize>,
) -> impl Iterator<Item = &'a Equality> {
    resolved.equalities.iter().filter(move |equality| equality.occurrence == index && equality.depends_on.is_subset(usable))
}

fn unreachable_reason(resolved: &Resolved, index: usize, relations: &[Relation]) -> String {
    if let Some(why) = why_not_traceable(resolved, index, relations) {
        return why;
    }
    let occurrence = &resolved.occurrences[index];
    match &occurrence.source {
        Source::Table(relation) => {
            let label = relations[*relation].label();
            let place = match occurrence.place {
                Place::Row => "is joined",
                Place::Inside(_) | Place::Subquery => "is read",
            };
            let name =
                if relations[*relation].name == occurrence.alias { label } else { format!("{label} (as {})", occurrence.alias) };
            format!("{name} {place} without an equality or a range that ties its rows to the root")
        }
        Source::Function(..) => format!("the function {} depends on what cannot be traced", occurrence.alias),
    }
}

/// The obstacle that an occurrence is which no hop reaches.
pub(crate) fn untied(index: usize, reason: &str, resolved: &Resolved, relations: &[Relation]) -> Obstacle {
    let obstacle = Obstacle::at(reason, resolved.occurrences[index].location);
    let Some(relation) = resolved.table(index).map(|found| &relations[found]) else { return obstacle };
    if relation.kind == RelationKind::Projection {
        return obstacle;
    }
    if relation.identity_columns().is_empty() {
        let table = quote::qualified(&relation.schema, &relation.name);
        return obstacle.instead(format!("ALTER TABLE {table} ADD PRIMARY KEY (…)"));
    }
    obstacle.instead("add an equality (… = …) with what is joined already; what all rows need alike can be a single value: (SELECT max(…) FROM …)")
}

impl Hop {
    /// The occurrences that it follows from.
    fn depends_on(&self, resolved: &Resolved) -> BTreeSet<usize> {
        let mut all = self.conditions_on();
        if let Source::Function(_, depends_on) = &resolved.occurrences[self.occurrence].source {
            all.extend(depends_on);
        }
        all
    }

    /// The occurrences that its conditions name beside its own.
    pub(crate) fn conditions_on(&self) -> BTreeSet<usize> {
        let equalities = self.equalities.iter().flat_map(|equality| &equality.depends_on);
        equalities.chain(self.ranges.iter().flat_map(|range| &range.depends_on)).copied().collect()
    }

    /// Its conditions, as a join has them.
    pub(crate) fn conditions(&self) -> String {
        let ranges = self.ranges.iter().map(|range| format!("({})", range.sql));
        self.equalities.iter().map(Equality::condition).chain(ranges).collect::<Vec<_>>().join(" AND ")
    }

    /// Its conditions, for the reader of a plan.
    pub(crate) fn ties(&self) -> String {
        let ranges = self.ranges.iter().map(|range| range.sql.clone());
        self.equalities.iter().map(Equality::tie).chain(ranges).collect::<Vec<_>>().join(" and ")
    }

    /// Whether more than equal values concern a root.
    pub(crate) fn concerns_more(&self) -> bool {
        self.equalities.iter().any(|equality| equality.nulls.concern_more())
    }
}

impl Paths {
    /// The hop that reaches an occurrence; `None` for the root.
    pub(crate) fn hop(&self, occurrence: usize) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.occurrence == occurrence)
    }

    /// The hops that lead from the root to some occurrences, in join order.
    pub(crate) fn leading_to(&self, occurrences: &BTreeSet<usize>, resolved: &Resolved) -> Vec<&Hop> {
        let mut needed = occurrences.clone();
        for earlier in self.hops.iter().rev() {
            if needed.contains(&earlier.occurrence) {
                needed.extend(earlier.depends_on(resolved));
            }
        }
        self.hops.iter().filter(|earlier| needed.contains(&earlier.occurrence)).collect()
    }

    /// Whether one root row can make more than one row (before aggregation).
    pub(crate) fn fans_out(&self, resolved: &Resolved, relations: &[Relation]) -> bool {
        let reached_by_key = |index: usize| self.hop(index).is_some_and(|hop| hop.kind == HopKind::Lookup);
        let by_table = resolved.occurrences.iter().enumerate().any(|(index, occurrence)| {
            let many = !reached_by_key(index) && !is_single(index, resolved, relations);
            occurrence.place == Place::Row && !occurrence.inert && index != self.root && many
        });
        by_table
            || resolved.derived.iter().enumerate().any(|(index, derived)| match &derived.rows {
                Some(rows) if derived.place == Place::Row => match rows {
                    Rows::AtMostOne => false,
                    Rows::Many => true,
                    Rows::PerGroup(groups) => !groups.iter().all(|group| self.is_tied(index, group, resolved)),
                },
                Some(_) | None => false,
            })
    }

    /// Whether a grouping expression of an opaque subquery is equal to a value that was known before the subquery was reached. (One
    /// that was found through the subquery says nothing: there is one for each of its rows.)
    fn is_tied(&self, derived: usize, group: &pg_query::protobuf::Node, resolved: &Resolved) -> bool {
        let Ok(group) = print_expression(group) else { return false };
        let inside = |index: &usize| resolved.occurrences[*index].place == Place::Inside(derived);
        let hops = self.hops.iter().filter(|hop| inside(&hop.occurrence));
        hops.flat_map(|hop| &hop.equalities)
            .any(|equality| equality.from_outside && equality.side_sql == group && !equality.depends_on.iter().any(inside))
    }
}
