//! How the rows of a step are reached from the rows above them.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::Node;

use super::super::branches::Part;
use super::super::paths::{self, HopKind};
use super::super::traces::Tracer;
use crate::model::agreement::Nulls;
use crate::model::facts::Query;
use crate::model::index::WantedIndex;
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::Root;
use crate::model::quote;
use crate::model::trace::{RelationRole, Role, Trace};
use crate::resolve;
use crate::syntax::{self, After, any, contains_set, for_each_reference, print_expression, target_expression, with_alias};

/// An equality by which a step reads the recursion's own rows.
pub(super) struct Tie {
    /// The recursion's column, from 0.
    column: usize,
    /// What it is cast to there.
    cast: Option<String>,
    /// What it is compared with, over the step.
    value: String,
    depends_on: BTreeSet<usize>,
}

impl Tie {
    /// The recursion's column, from 0.
    pub(super) fn column(&self) -> usize {
        self.column
    }
}

/// The equalities between a step and the recursion's own rows, which it reads as the relation `own`.
pub(super) fn ties(step: &Part, own: usize, columns: &[String]) -> Vec<Tie> {
    let reached = |index: &usize| {
        let hop = step.paths.hop(*index);
        *index == step.paths.root || hop.is_some_and(|hop| !hop.concerns_more())
    };
    let of_own_rows = step.resolved.equalities.iter().filter(|equality| {
        step.resolved.table(equality.occurrence) == Some(own)
            && equality.nulls == Nulls::default()
            && !equality.depends_on.is_empty()
            && equality.depends_on.iter().all(reached)
    });
    let mut found: Vec<Tie> = Vec::new();
    for equality in of_own_rows {
        let Some(column) = columns.iter().position(|name| equality.column.as_ref() == Some(name)) else { continue };
        if found.iter().any(|tie| tie.column == column && tie.value == equality.value) {
            continue;
        }
        let (cast, value, depends_on) = (equality.cast.clone(), equality.value.clone(), equality.depends_on.clone());
        found.push(Tie { column, cast, value, depends_on });
    }
    found
}

/// What a column of the recursion is in an arm, if the arm's root row alone tells.
pub(super) fn own_value(part: &Part, column: usize, query: &Query) -> Outcome<Option<Node>> {
    let target = part.resolved.select.target_list.get(column);
    let Some(value) = target.and_then(target_expression).and_then(|value| part.resolved.seen_through(value)) else {
        return Ok(None);
    };
    let alias = &part.resolved.occurrences[part.paths.root].alias;
    let (mut all, mut own) = (0, 0);
    for_each_reference(&value, &mut |first, after| {
        all += 1;
        own += usize::from(first == alias && after == After::Name);
    })?;
    let asks = any(&value, &|node| matches!(&node.node, Some(NodeEnum::SubLink(_))))?;
    let sets = contains_set(&mut value.clone(), &query.functions)?;
    Ok((all > 0 && all == own && !asks && !sets).then_some(value))
}

/// From the rows of an arm to the rows of the step below them.
pub(super) struct Reach {
    pub(super) trace: Trace,
    pub(super) missing_indexes: Vec<WantedIndex>,
    pub(super) is_lookup: bool,
    /// FROM: the step's root, and the arm's rows that are above it.
    pub(super) path: String,
    /// The keys of the arm's rows there.
    pub(super) keys: Vec<String>,
    /// The equalities, for the reader.
    pub(super) ties: String,
    alias: String,
}

/// Finds the step's rows by what the arm's make. `values` are the recursion's columns of the ties in the arm.
pub(super) fn reach((step, arm): (&Part, &Part), ties: &[Tie], values: &[Node], query: &Query, state: &str) -> Outcome<Reach> {
    let taken = |name: &String| step.resolved.occurrences.iter().any(|occurrence| occurrence.alias == *name);
    let names = std::iter::once("above".to_owned()).chain((2..).map(|n| format!("above_{n}")));
    let alias = names.into_iter().find(|name| !taken(name)).unwrap_or_default();
    let root = arm.root(query);
    let arm_alias = &arm.resolved.occurrences[arm.paths.root].alias;
    let mut conditions = Vec::new();
    for (tie, value) in ties.iter().zip(values) {
        let value = print_expression(&with_alias(value, arm_alias, &alias)?)?;
        let value = tie.cast.as_ref().map_or_else(|| value.clone(), |cast| format!("({value})::{cast}"));
        conditions.push(format!("{value} = ({})", tie.value));
    }
    let needed: BTreeSet<usize> = ties.iter().flat_map(|tie| tie.depends_on.iter().copied()).collect();
    let path = format!(
        "{}\nJOIN {} AS {} ON {}",
        step.tracer(query).path(&needed)?,
        quote::qualified(&root.schema, &root.name),
        quote::identifier(&alias),
        conditions.join(" AND ")
    );
    let select = syntax::parse_select(&format!("SELECT 1 FROM {path}"))?;
    let resolved = resolve::resolve(select, &query.relations, &query.functions)?;
    let place = |alias: &str| resolved.occurrences.iter().position(|occurrence| occurrence.alias == alias);
    let (Some(below), Some(above)) = (place(&step.resolved.occurrences[step.paths.root].alias), place(&alias)) else {
        return Err(Obstacle::new("the rows above a step were not found again"));
    };
    let paths = paths::from_root(below, &resolved, &query.relations);
    let Some(hop) = paths.hop(above) else {
        return Err(Obstacle::new("the rows above a step cannot be traced to it"));
    };
    let tracer = Tracer { resolved: &resolved, paths: &paths, relations: &query.relations };
    Ok(Reach {
        trace: tracer.trace(hop, state)?,
        missing_indexes: tracer.missing_indexes(hop),
        is_lookup: hop.kind == HopKind::Lookup,
        path,
        keys: root.values(&quote::identifier(&alias)),
        ties: conditions.join(" and "),
        alias,
    })
}

impl Reach {
    /// The role of the arm's root relation, as what is above: its rows are the roots of `branch`.
    pub(super) fn role(&self, root: &Root, branch: usize) -> RelationRole {
        RelationRole {
            relation: root.relation,
            alias: self.alias.clone(),
            role: if self.is_lookup { Role::Lookup } else { Role::Link },
            reason: format!("a changed row concerns what is below it, at any depth: {}", self.ties),
            trace: self.trace.clone(),
            missing_indexes: self.missing_indexes.clone(),
            follows: Some(branch),
        }
    }

    /// Whether another reach leads the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.path == other.path
    }
}
