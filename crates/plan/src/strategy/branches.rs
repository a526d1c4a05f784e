//! A branch: one root, the query that its rows come from, and the same query restricted to dirty roots.
//!
//! The rule: each row of `Q(R, X…)` comes from one row of the root R, so `Q = ⊎ k ∈ keys(R): σ[R.key = k] Q`. When only the roots D are
//! dirty, `Q' = (Q without the rows of D) ⊎ σ[R.key ∈ D] Q'`: the rows of clean roots stay, those of dirty ones are what the query itself
//! returns for them now. No row of the result is derived from its old value.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, SelectStmt};

use super::paths::{self, HopKind, Paths};
use super::traces::Tracer;
use crate::model::facts::{Query, Relation, RelationKind};
use crate::model::index::{Purpose, WantedIndex};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::{Branch, Clock, Root};
use crate::model::quote;
use crate::model::row_key::locator;
use crate::model::trace::{RelationRole, Role, Trace};
use crate::resolve::{self, ClockComparison, Equality, Place, Resolved};
use crate::syntax::{self, column_reference, print_expression, print_select_pretty, target_expression};

/// A resolved SELECT and its paths.
pub(crate) struct Part {
    pub(crate) resolved: Resolved,
    pub(crate) paths: Paths,
    /// The output columns that are exactly the root's identity, in identity order; empty if one is missing.
    pub(crate) key_outputs: Vec<usize>,
    pub(crate) fans_out: bool,
}

impl Part {
    /// Resolves a SELECT and finds its root.
    pub(crate) fn new(select: SelectStmt, query: &Query) -> Outcome<Self> {
        let resolved = resolve::resolve(select, &query.relations, &query.functions)?;
        let outputs = printed_outputs(&resolved)?;
        let key_outputs = |root: usize| key_outputs(root, &resolved, &query.relations, &outputs).unwrap_or_default();
        let paths = paths::find(&resolved, &query.relations, &|root| !key_outputs(root).is_empty())?;
        // A table that is joined without any tie makes everything depend on everything. So does a single row, by its value alone.
        let is_single = |index: usize| resolved.table(index).is_some_and(|found| query.relations[found].single_row);
        let untied = |(index, _): &&(usize, String)| resolved.occurrences[*index].place != Place::Subquery && !is_single(*index);
        if let Some((index, reason)) = paths.unreached.iter().find(untied) {
            return Err(paths::untied(*index, reason, &resolved, &query.relations));
        }
        // What cannot be traced must not change with what can, or nothing is gained.
        let relation = |index: usize| resolved.table(index);
        let traced: BTreeSet<usize> =
            std::iter::once(paths.root).chain(paths.hops.iter().map(|hop| hop.occurrence)).filter_map(relation).collect();
        let also_traced = |(index, _): &&(usize, String)| relation(*index).is_some_and(|found| traced.contains(&found));
        if let Some((index, reason)) = paths.unreached.iter().find(also_traced) {
            return Err(paths::untied(*index, reason, &resolved, &query.relations));
        }
        // A key of an inheritance family may occur in several of its tables, and two keys may have one hash.
        let family = relation(paths.root).is_some_and(|root| {
            let root = &query.relations[root];
            root.kind == RelationKind::InheritanceParent || !root.located_by.is_empty()
        });
        let returns_set = syntax::returns_set(&resolved.select, &query.functions)?;
        let fans_out = family || returns_set || paths.fans_out(&resolved, &query.relations);
        let key_outputs = key_outputs(paths.root);
        Ok(Self { resolved, paths, key_outputs, fans_out })
    }

    /// The root.
    pub(crate) fn root(&self, query: &Query) -> Root {
        let index = self.resolved.table(self.paths.root).unwrap_or_default();
        let relation = &query.relations[index];
        let key = |column: &String| (column.clone(), relation.identity_type(column));
        Root {
            relation: index,
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            key: relation.identity_columns().iter().map(key).collect(),
            located_by: relation.located_by.clone(),
        }
    }

    /// The branch whose query is `select`, a form of this part's SELECT.
    pub(crate) fn branch(&self, mut select: SelectStmt, query: &Query, number: usize) -> Outcome<Branch> {
        let root = self.root(query);
        select.sort_clause.clear();
        let unrestricted = print_select_pretty(&select)?;
        let restricted = |condition: &dyn Fn(&[String]) -> String| -> Outcome<String> {
            let mut select = select.clone();
            self.restrict(&mut select, &root, condition)?;
            self.push_down(&mut select, query, &root, condition)?;
            Ok(print_select_pretty(&select)?)
        };
        let roles = self.roles(query, number)?;
        Ok(Branch {
            query: unrestricted,
            dirty_query: restricted(&|values| within(values, DIRTY))?,
            page_query: Some(restricted(&|values| root.in_range(values))?),
            clocks: self.clocks(query, &roles),
            roles,
            contributions: None,
            fans_out: self.fans_out,
            root,
        })
    }

    /// Restricts the SELECT by a condition on the root's key.
    pub(super) fn restrict(&self, select: &mut SelectStmt, root: &Root, condition: &dyn Fn(&[String]) -> String) -> Outcome<()> {
        let alias = &self.resolved.occurrences[self.paths.root].alias;
        let restriction = syntax::parse_expression(&condition(&root.values(&quote::identifier(alias))))?;
        let Some(holder) = syntax::select_with_alias(select, alias) else {
            return Err(Obstacle::new(format!("{alias} was not found again")));
        };
        holder.where_clause = Some(syntax::and(holder.where_clause.take(), restriction));
        Ok(())
    }

    /// Restricts subqueries to what the roots that matter ask of them, where PostgreSQL does not: it does not push a join's condition through
    /// a GROUP BY, and it reads the whole of what follows NOT IN. The conditions hold anyway for all rows that matter.
    fn push_down(
        &self,
        select: &mut SelectStmt,
        query: &Query,
        root: &Root,
        matters: &dyn Fn(&[String]) -> String,
    ) -> Outcome<()> {
        for hop in &self.paths.hops {
            let occurrence = &self.resolved.occurrences[hop.occurrence];
            for equality in &hop.equalities {
                let inside = matches!(occurrence.place, Place::Inside(_)) && equality.from_outside;
                if inside {
                    let condition = syntax::parse_expression(&self.asked_for(equality, query, root, matters)?)?;
                    if let Some(holder) = syntax::select_with_alias(select, &occurrence.alias) {
                        holder.where_clause = Some(syntax::and(holder.where_clause.take(), condition));
                    }
                } else if equality.membership && occurrence.place == Place::Subquery {
                    let condition = syntax::parse_expression(&self.asked_for(equality, query, root, matters)?)?;
                    syntax::change_subquery_with_alias(select, &occurrence.alias, &mut |holder| {
                        holder.where_clause = Some(syntax::and(holder.where_clause.take(), condition.clone()));
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The condition that a row is one that some root asks for that matters.
    fn asked_for(
        &self,
        equality: &Equality,
        query: &Query,
        root: &Root,
        matters: &dyn Fn(&[String]) -> String,
    ) -> Outcome<String> {
        let path = self.tracer(query).path(&equality.depends_on)?;
        let dirty = matters(&root.values(&quote::identifier(&self.resolved.occurrences[self.paths.root].alias)));
        let Equality { side_sql, value, nulls, .. } = equality;
        if !nulls.equal && !nulls.concern_more() {
            return Ok(format!("{side_sql} IN (SELECT {value} FROM {path} WHERE {dirty})"));
        }
        // An array, because PostgreSQL can look up an index for either side of an OR then.
        let mut condition = format!("{side_sql} = ANY (ARRAY(SELECT {value} FROM {path} WHERE {dirty}))");
        if nulls.in_side {
            condition.push_str(&format!(" OR ({side_sql}) IS NULL"));
        }
        if nulls.in_value {
            condition.push_str(&format!(" OR EXISTS (SELECT 1 FROM {path} WHERE {dirty} AND ({value}) IS NULL)"));
        }
        if nulls.equal {
            let any_null = format!("EXISTS (SELECT 1 FROM {path} WHERE {dirty} AND ({value}) IS NULL)");
            condition.push_str(&format!(" OR (({side_sql}) IS NULL AND {any_null})"));
        }
        Ok(format!("({condition})"))
    }

    /// Adds the root's key to the SELECT's reach: returns one expression a key column, valid in the select list, having added columns
    /// to the subqueries that the root stands in.
    pub(crate) fn expose_key(&self, select: &mut SelectStmt, root: &Root) -> Outcome<Vec<Node>> {
        let alias = self.resolved.occurrences[self.paths.root].alias.clone();
        let values = root.values(&quote::identifier(&alias)).into_iter();
        values.enumerate().map(|(n, value)| self.expose(select, &alias, &syntax::parse_expression(&value)?, n + 1)).collect()
    }

    /// Makes an expression over an alias available, as `lockstep_k1` and so on where it stands in a subquery.
    fn expose(&self, select: &mut SelectStmt, alias: &str, value: &Node, number: usize) -> Outcome<Node> {
        let mut probe = select.clone();
        let direct = syntax::select_with_alias(&mut probe, alias).is_some_and(|holder| holder.from_clause == select.from_clause);
        if direct {
            return Ok(value.clone());
        }
        let enclosing = self.resolved.derived.iter().find(|derived| {
            let mut copy = select.clone();
            copy.from_clause
                .iter_mut()
                .find_map(|item| syntax::subselect_named(item, &derived.alias))
                .is_some_and(|inner| syntax::select_with_alias(inner, alias).is_some())
        });
        let Some(derived) = enclosing else { return Err(Obstacle::new(format!("{alias} was not found again"))) };
        if derived.used_as_row {
            return Err(Obstacle::new(format!("the subquery {} is used as a whole row", derived.alias)));
        }
        let Some(inner) = select.from_clause.iter_mut().find_map(|item| syntax::subselect_named(item, &derived.alias)) else {
            return Err(Obstacle::new(format!("{} was not found again", derived.alias)));
        };
        let value = self.expose(inner, alias, value, number)?;
        let mut name = format!("lockstep_k{number}");
        while inner.target_list.iter().any(|target| named(target, &name)) {
            name.push('_');
        }
        inner.target_list.push(syntax::target(&name, value));
        Ok(column_reference(&derived.alias, &name))
    }

    /// A role told about the time that its rows are compared with.
    fn with_clock(&self, mut role: RelationRole, occurrence: usize, tracer: &Tracer<'_>) -> RelationRole {
        for comparison in self.resolved.clocks.iter().filter(|comparison| comparison.occurrence == occurrence) {
            role.reason.push_str(&format!("; its rows come and go as {} moves past {}", comparison.bound, comparison.side));
            if let Some(column) = &comparison.column {
                role.missing_indexes.extend(tracer.missing_index(occurrence, std::slice::from_ref(column), Purpose::Order));
            }
        }
        role
    }

    fn clocks(&self, query: &Query, roles: &[RelationRole]) -> Vec<Clock> {
        let clock = |comparison: &ClockComparison| {
            let occurrence = &self.resolved.occurrences[comparison.occurrence];
            let relation = &query.relations[self.resolved.table(comparison.occurrence)?];
            let alias = quote::identifier(&occurrence.alias);
            let role = roles.iter().position(|role| role.alias == occurrence.alias)?;
            let keys: Vec<String> = relation
                .identity_columns()
                .iter()
                .map(|column| format!("{}::text", relation.identity_value(&alias, column)))
                .collect();
            let ClockComparison { side, bound, bound_before, .. } = comparison;
            // The filters keep the value from being computed for rows that it is not meant for.
            let filters: Vec<String> = occurrence
                .filters
                .iter()
                .filter_map(|filter| Some(format!("({})\n  AND ", print_expression(filter).ok()?)))
                .collect();
            let flipped = format!(
                "SELECT {}\nFROM {} AS {alias}\nWHERE {}{side} BETWEEN least({bound_before}, {bound})\n  AND greatest({bound_before}, {bound})",
                keys.join(", "),
                quote::qualified(&relation.schema, &relation.name),
                filters.concat(),
            );
            Some(Clock { role, flipped })
        };
        self.resolved.clocks.iter().filter_map(clock).collect()
    }

    pub(super) fn tracer<'a>(&'a self, query: &'a Query) -> Tracer<'a> {
        Tracer { resolved: &self.resolved, paths: &self.paths, relations: &query.relations }
    }

    pub(super) fn roles(&self, query: &Query, branch: usize) -> Outcome<Vec<RelationRole>> {
        let tracer = self.tracer(query);
        let mut roles = Vec::new();
        for (index, occurrence) in self.resolved.occurrences.iter().enumerate() {
            let (Some(relation), false) = (self.resolved.table(index), occurrence.inert) else { continue };
            let alias = occurrence.alias.clone();
            let unreached = self.paths.unreached.iter().find(|(unreached, _)| *unreached == index);
            let role = match (self.paths.hop(index), unreached) {
                (Some(hop), _) => {
                    let state = format!(
                        "{}_link{}",
                        query.projection,
                        if branch == 0 { String::new() } else { format!("{}_", branch + 1) }
                    );
                    let trace = tracer.trace(hop, &format!("{state}{}", index + 1))?;
                    let missing_indexes = tracer.missing_indexes(hop);
                    let ties = hop.ties();
                    let (role, reason) = match hop.kind {
                        HopKind::Lookup | HopKind::Call => (Role::Lookup, format!("read only by its key: {ties}")),
                        HopKind::KeyLink => (Role::Link, format!("many rows may match, and their key tells whom: {ties}")),
                        HopKind::Link => (Role::Link, format!("many rows may match; what they were joined by is kept: {ties}")),
                        HopKind::Range => (Role::Link, tracer.range_reason(hop, &trace)),
                    };
                    RelationRole { relation, alias, role, reason, trace, missing_indexes, follows: None }
                }
                (None, Some((_, reason))) => RelationRole {
                    relation,
                    alias,
                    role: Role::Whole,
                    reason: if query.relations[relation].single_row {
                        "one value: another one makes all rows dirty, and a batch that leaves it as it is none".to_owned()
                    } else {
                        format!("a change of it recomputes everything: {reason}")
                    },
                    trace: Trace::Whole,
                    missing_indexes: Vec::new(),
                    follows: None,
                },
                (None, None) => RelationRole {
                    relation,
                    alias,
                    role: Role::Root,
                    reason: if query.relations[relation].is_keyless() {
                        format!("the hash of its rows ({}) is the root key", query.relations[relation].key_for_reader())
                    } else {
                        format!("its key ({}) is the root key", query.relations[relation].key_for_reader())
                    },
                    trace: Trace::Root,
                    missing_indexes: Vec::new(),
                    follows: None,
                },
            };
            let role = with_hash_index(role, &query.relations[relation]);
            roles.push(self.with_clock(role, index, &tracer));
        }
        Ok(roles)
    }
}

/// A role told about the index that finds the rows of a table without a key.
fn with_hash_index(mut role: RelationRole, relation: &Relation) -> RelationRole {
    if role.role != Role::Whole && !relation.finds_by_hash() {
        role.reason.push_str("; without an index on its rows' hash a batch that changes it reads all of it");
        role.missing_indexes.push(WantedIndex {
            schema: relation.schema.clone(),
            table: relation.name.clone(),
            keys: vec![format!("({})", locator("", &relation.located_by))],
            purpose: Purpose::Expressions,
        });
    }
    role
}

fn named(target: &Node, name: &str) -> bool {
    matches!(&target.node, Some(NodeEnum::ResTarget(target)) if target.name == name)
}

/// The CTE of the dirty roots' keys.
pub(super) const DIRTY: &str = "dirty";

/// Whether some values are a key of a CTE of keys.
pub(super) fn within(values: &[String], keys: &str) -> String {
    let columns: Vec<String> = (1..=values.len()).map(|n| format!("{keys}.k{n}")).collect();
    format!("({}) IN (SELECT {} FROM {keys})", values.join(", "), columns.join(", "))
}

/// The output expressions as they read over tables' columns; empty where one cannot see through.
fn printed_outputs(resolved: &Resolved) -> Outcome<Vec<String>> {
    resolved
        .select
        .target_list
        .iter()
        .map(|target| match target_expression(target).and_then(|value| resolved.seen_through(value)) {
            Some(seen) => Ok(print_expression(&seen)?),
            None => Ok(String::new()),
        })
        .collect()
}

fn key_outputs(root: usize, resolved: &Resolved, relations: &[Relation], outputs: &[String]) -> Option<Vec<usize>> {
    let relation = &relations[resolved.table(root)?];
    let alias = &resolved.occurrences[root].alias;
    relation
        .identity_columns()
        .iter()
        .map(|column| {
            let wanted = print_expression(&column_reference(alias, column)).ok()?;
            let itself = outputs.iter().position(|text| *text == wanted);
            itself.or_else(|| outputs.iter().position(|text| equals_key(root, column, text, resolved, relations)))
        })
        .collect()
}

/// Whether an output column is equal to a column of the root's key in every row: an inner join's condition says so.
fn equals_key(root: usize, key: &str, output: &str, resolved: &Resolved, relations: &[Relation]) -> bool {
    let type_of = |occurrence: usize, column: &str| Some(&relations[resolved.table(occurrence)?].column(column)?.type_name);
    resolved.equalities.iter().any(|equality| {
        let Some((other, column)) = &equality.value_column else { return false };
        equality.occurrence == root
            && equality.column.as_deref() == Some(key)
            && equality.cast.is_none()
            && !equality.membership
            && equality.value == output
            && resolved.occurrences[*other].place == Place::Row
            && !resolved.occurrences[*other].nullable
            && type_of(root, key) == type_of(*other, column)
    })
}
