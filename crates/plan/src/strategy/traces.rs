//! Traces: from the dirty keys of a relation to the root keys they concern.
//!
//! The rule: with P the path from the root to X, `trace(x) = π[R.key] σ[v = s] P` for the values s by which x is found, where v is the
//! path's side of the equality. For a lookup s is x's identity, which does not change. For a link s is what x had and what it has:
//! `trace(old s) ∪ trace(new s)`. A trace may name too many roots, never too few.

use std::collections::BTreeSet;

use super::paths::{Hop, HopKind, Paths};
use super::ranges;
use crate::model::agreement::{Compared, restricted};
use crate::model::facts::Relation;
use crate::model::index::{Purpose, WantedIndex};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::quote;
use crate::model::state::StateTable;
use crate::model::trace::{Concerned, LinkTrace, Trace, satisfying, unnest};
use crate::resolve::{Equality, Resolved, Source};
use crate::syntax::{self, print_expression, wrap};

/// What is kept of a link's rows, and whom it concerns.
struct Kept {
    sides: Vec<String>,
    concerned: Concerned,
}

/// Makes traces for the hops of one branch.
pub(crate) struct Tracer<'a> {
    pub(crate) resolved: &'a Resolved,
    pub(crate) paths: &'a Paths,
    pub(crate) relations: &'a [Relation],
}

impl Tracer<'_> {
    fn relation(&self, occurrence: usize) -> Option<&Relation> {
        self.resolved.table(occurrence).map(|index| &self.relations[index])
    }

    /// The trace of a hop. `state_name` names the table that keeps old values, if one is needed.
    pub(crate) fn trace(&self, hop: &Hop, state_name: &str) -> Outcome<Trace> {
        let compared = |equality: &Equality| Compared { value: equality.value.clone(), nulls: equality.nulls };
        let values: Vec<Compared> = hop.equalities.iter().map(compared).collect();
        let select = format!("SELECT DISTINCT {}\nFROM {}", self.root_keys(), self.path(&hop.conditions_on())?);
        let Some(relation) = self.relation(hop.occurrence) else {
            return Err(Obstacle::new("a function has no trace"));
        };
        if hop.kind == HopKind::Range {
            return self.range(hop, relation, select, state_name);
        }
        if hop.kind != HopKind::Link {
            let identity = relation.identity_columns();
            let dirty: Vec<String> = hop
                .equalities
                .iter()
                .map(|equality| {
                    let column = equality.column.as_deref().unwrap_or_default();
                    let position = identity.iter().position(|name| name == column).unwrap_or_default();
                    let type_name = relation.column(column).map_or("text", |column| &column.type_name);
                    let typed = format!("d.d{}::{type_name}", position + 1);
                    equality.cast.as_ref().map_or(typed.clone(), |cast| format!("({typed})::{cast}"))
                })
                .collect();
            let sql = restricted(&select, &values, &dirty, &unnest(identity.len()));
            return Ok(Trace::Keys(sql));
        }
        let sides = hop.equalities.iter().map(|equality| equality.side_sql.clone()).collect();
        Ok(Trace::Link(Box::new(self.link(
            hop.occurrence,
            relation,
            select,
            Kept { sides, concerned: Concerned::Agreeing(values) },
            state_name,
        ))))
    }

    fn range(&self, hop: &Hop, relation: &Relation, select: String, state_name: &str) -> Outcome<Trace> {
        let alias = &self.resolved.occurrences[hop.occurrence].alias;
        let (columns, conditions) = (ranges::columns(hop), ranges::conditions(hop, alias)?);
        let identity = relation.identity_columns();
        let typed = |column: &String| {
            let position = identity.iter().position(|found| found == column)?;
            Some(format!("d.d{}::{}", position + 1, relation.identity_type(column)))
        };
        if let Some(dirty) = columns.iter().map(typed).collect::<Option<Vec<_>>>() {
            return Ok(Trace::Keys(satisfying(&select, &conditions, &dirty, &unnest(identity.len()))));
        }
        let sides = columns.iter().map(|column| format!("{}.{}", quote::identifier(alias), quote::identifier(column))).collect();
        let kept = Kept { sides, concerned: Concerned::Satisfying(conditions) };
        Ok(Trace::Link(Box::new(self.link(hop.occurrence, relation, select, kept, state_name))))
    }

    fn link(&self, occurrence: usize, relation: &Relation, select: String, kept: Kept, state_name: &str) -> LinkTrace {
        let alias = quote::identifier(&self.resolved.occurrences[occurrence].alias);
        let identity = relation.identity_columns();
        let located = !relation.located_by.is_empty();
        let key: Vec<String> = (1..=identity.len()).map(|n| format!("k{n}")).collect();
        let link_columns: Vec<String> = (1..=kept.sides.len()).map(|n| format!("l{n}")).collect();
        let keys = identity.iter().map(|column| relation.identity_value(&alias, column));
        let expressions: Vec<String> = keys.chain(kept.sides).collect();
        let filters = &self.resolved.occurrences[occurrence].filters;
        let state = StateTable {
            name: state_name.to_owned(),
            purpose: if located {
                format!("what rows of {} were joined by, those of one hash together", relation.label())
            } else {
                format!("what each row of {} was joined by", relation.label())
            },
            columns: key.iter().chain(&link_columns).cloned().collect(),
            types: Vec::new(),
            domains: Vec::new(),
            key,
            located_by: Vec::new(),
            many_per_key: located,
            definition: format!(
                "SELECT {}\nFROM {} AS {alias}",
                expressions
                    .iter()
                    .zip((1..=identity.len()).map(|n| format!("k{n}")).chain(link_columns.iter().cloned()))
                    .map(|(expression, name)| format!("{expression} AS {name}"))
                    .collect::<Vec<_>>()
                    .join(", "),
                quote::qualified(&relation.schema, &relation.name)
            ),
        };
        let key_types = identity.iter().map(|column| relation.identity_type(column)).collect();
        LinkTrace {
            state,
            alias,
            table: quote::qualified(&relation.schema, &relation.name),
            key_columns: identity.len(),
            located,
            key_types,
            expressions,
            filter: filters.iter().filter_map(|filter| print_expression(filter).ok()).collect(),
            select,
            concerned: kept.concerned,
        }
    }

    /// What a range link keeps and costs, for the reader of a plan.
    pub(crate) fn range_reason(&self, hop: &Hop, trace: &Trace) -> String {
        let kept = if matches!(trace, Trace::Keys(_)) { "their key tells whom" } else { "what they were compared by is kept" };
        let mut reason = format!("many rows may match, and {kept}: {}", hop.ties());
        for occurrence in ranges::wanted(hop, self.resolved, self.relations).scanned {
            let label = self.relation(occurrence).map(Relation::label).unwrap_or_default();
            reason.push_str(&format!("; a batch that changes it reads all of {label}, which has no index for that"));
        }
        reason
    }

    fn root_keys(&self) -> String {
        let alias = quote::identifier(&self.resolved.occurrences[self.paths.root].alias);
        let Some(relation) = self.relation(self.paths.root) else { return String::new() };
        let key = |(n, column): (usize, &String)| format!("{}::text AS k{}", relation.identity_value(&alias, column), n + 1);
        relation.identity_columns().iter().enumerate().map(key).collect::<Vec<_>>().join(", ")
    }

    /// A FROM clause with the root and what leads from it to some occurrences.
    pub(crate) fn path(&self, occurrences: &BTreeSet<usize>) -> Outcome<String> {
        let mut from = self.item(self.paths.root)?;
        for hop in self.paths.leading_to(occurrences, self.resolved) {
            let item = self.item(hop.occurrence)?;
            if hop.kind == HopKind::Call {
                from.push_str(&format!("\nCROSS JOIN {item}"));
                continue;
            }
            from.push_str(&format!("\nJOIN {item} ON {}", hop.conditions()));
        }
        Ok(from)
    }

    fn item(&self, occurrence: usize) -> Outcome<String> {
        let found = &self.resolved.occurrences[occurrence];
        match &found.source {
            Source::Table(relation) => {
                let relation = &self.relations[*relation];
                Ok(format!("{} AS {}", quote::qualified(&relation.schema, &relation.name), quote::identifier(&found.alias)))
            }
            Source::Function(function, _) => {
                let mut function = (**function).clone();
                function.lateral = true;
                Ok(syntax::print_from_item(&wrap(pg_query::NodeEnum::RangeFunction(function)))?)
            }
        }
    }

    /// The indexes that a hop needs and its tables lack: one to find the roots that a value concerns, one for a link to find the rows that
    /// have a value.
    pub(crate) fn missing_indexes(&self, hop: &Hop) -> Vec<WantedIndex> {
        if hop.kind == HopKind::Range {
            return ranges::wanted(hop, self.resolved, self.relations).missing;
        }
        let mut missing = Vec::new();
        let referring = hop.equalities.iter().flat_map(|equality| equality.depends_on.iter().copied()).next();
        let columns: Option<Vec<&(usize, String)>> =
            hop.equalities.iter().map(|equality| equality.value_column.as_ref()).collect();
        if let (Some(referring), Some(columns)) = (referring, columns) {
            // What a row is compared with as a whole may come from several tables; one of them finds the roots.
            let own = columns.into_iter().filter(|(occurrence, _)| *occurrence == referring).map(|(_, column)| column.clone());
            missing.extend(self.missing_index(referring, &own.collect::<Vec<_>>(), Purpose::Equality));
        }
        if hop.kind != HopKind::Lookup {
            let sides: Vec<String> = hop
                .equalities
                .iter()
                .map(|equality| equality.column.clone().unwrap_or_else(|| equality.side_sql.clone()))
                .collect();
            if hop.equalities.iter().all(|equality| equality.column.is_some()) {
                missing.extend(self.missing_index(hop.occurrence, &sides, Purpose::Equality));
            } else if let Some(relation) = self.relation(hop.occurrence) {
                missing.extend(self.missing_expression_index(relation, hop));
            }
        }
        missing
    }

    pub(crate) fn missing_index(&self, occurrence: usize, wanted: &[String], purpose: Purpose) -> Option<WantedIndex> {
        let relation = self.relation(occurrence)?;
        let covers = |index: &Vec<String>| index.first().is_some_and(|first| wanted.contains(first));
        if relation.indexes.iter().any(covers) {
            return None;
        }
        let keys = wanted.iter().map(|column| quote::identifier(column)).collect();
        Some(WantedIndex { schema: relation.schema.clone(), table: relation.name.clone(), keys, purpose })
    }

    fn missing_expression_index(&self, relation: &Relation, hop: &Hop) -> Option<WantedIndex> {
        let alias = &self.resolved.occurrences[hop.occurrence].alias;
        let bare: Vec<String> = hop
            .equalities
            .iter()
            .map(|equality| {
                Some(format!("({})", syntax::print_expression(&syntax::without_alias(&equality.side, alias).ok()?).ok()?))
            })
            .collect::<Option<_>>()?;
        let plain = |text: &str| text.chars().filter(|c| !matches!(c, '(' | ')' | ' ' | '"')).collect::<String>();
        let covers =
            |index: &Vec<String>| index.first().is_some_and(|first| bare.iter().any(|wanted| plain(wanted) == plain(first)));
        if relation.indexes.iter().any(covers) {
            return None;
        }
        let (schema, table) = (relation.schema.clone(), relation.name.clone());
        Some(WantedIndex { schema, table, keys: bare, purpose: Purpose::Expressions })
    }
}
