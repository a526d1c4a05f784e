//! What tells the rows of a FROM clause apart, and what an ORDER BY over them leaves open.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, JoinType, Node, SelectStmt};

use crate::model::facts::{Identity, Relation, RelationKind};
use crate::model::quote;
use crate::syntax::{self, name_parts, string_of};

/// An alias and a column.
pub(super) type Reference = (String, String);

/// Types of which equal values are one value, and an order by the column itself tells apart what is unequal, the same everywhere.
const PLAIN: [&str; 10] = ["smallint", "integer", "bigint", "oid", "uuid", "boolean", "date", "timestamp", "time", "bytea"];

/// Types of which only the order is such: equal values may be spelled differently.
const ORDERED: [&str; 4] = ["numeric", "inet", "real", "double precision"];

/// Types of which only equal values are such: their order is a collation's.
const EXACT: [&str; 2] = ["text", "character varying"];

fn is_one_of(type_name: &str, types: [&[&str]; 2]) -> bool {
    !type_name.ends_with(']') && types.into_iter().flatten().any(|known| type_name.starts_with(known))
}

/// A column of a table or of a subquery.
#[derive(Debug, Clone)]
pub(super) struct ShapeColumn {
    pub(super) name: String,
    /// Its type, where it is known.
    pub(super) type_name: Option<String>,
}

/// What is known of the rows of a table or a subquery.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// Its columns; none if they are not known.
    pub(super) columns: Option<Vec<ShapeColumn>>,
    /// Columns that identify a row; without columns if there is one row at most.
    pub(super) key: Option<Vec<String>>,
    /// ORDER BY of a subquery, as items over its columns; `Err` if it is by something that is none.
    pub(super) order: Vec<Result<Node, ()>>,
}

impl Shape {
    pub(super) fn of_relation(relation: &Relation) -> Self {
        let exact = |column: &crate::facts::Column| (!column.own_collation).then(|| column.type_name.clone());
        let columns =
            relation.columns.iter().map(|column| ShapeColumn { name: column.name.clone(), type_name: exact(column) }).collect();
        let key = match (&relation.identity, relation.kind) {
            // A key may occur in several tables of the family.
            (_, RelationKind::InheritanceParent) | (Identity::FullRow { .. } | Identity::None, _) => None,
            // What all columns together tell apart need not look the same where it is equal.
            (Identity::Columns { .. }, _) if relation.is_keyless() => None,
            (Identity::Columns { .. }, _) if !relation.located_by.is_empty() => Some(relation.located_by.clone()),
            (Identity::Columns { columns, .. }, _) => Some(columns.clone()),
        };
        Self { columns: Some(columns), key, order: Vec::new() }
    }

    /// The same under the names that an alias gives.
    pub(super) fn renamed(mut self, names: &[Node]) -> Self {
        let names: Vec<&str> = names.iter().filter_map(string_of).collect();
        let Some(columns) = &mut self.columns else { return self };
        for (column, name) in columns.iter_mut().zip(names) {
            if let Some(position) = self.key.as_ref().and_then(|key| key.iter().position(|key| *key == column.name)) {
                name.clone_into(&mut self.key.get_or_insert_default()[position]);
            }
            if column.name != name {
                // Items over the old name are not worth translating.
                self.order.iter_mut().for_each(|item| *item = Err(()));
            }
            name.clone_into(&mut column.name);
        }
        self
    }
}

/// The number of a function's row, which it gets where it is needed: what a function returns comes in an order.
pub(super) const ROW_NUMBER: &str = "lockstep_n";

/// An item of a FROM clause.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) alias: String,
    pub(super) shape: Shape,
    /// Whether it is a function whose rows can be numbered.
    pub(super) numbered: bool,
}

/// The rows of one SELECT before it groups.
#[derive(Debug, Clone, Default)]
pub(super) struct Level {
    pub(super) items: Vec<Item>,
    /// When the first are determined (references, and whole items), so is the last.
    implied: Vec<(BTreeSet<Reference>, BTreeSet<usize>, Reference)>,
}

/// What an order determines.
pub(super) struct Determined {
    items: BTreeSet<usize>,
    references: BTreeSet<Reference>,
}

impl Level {
    /// The reference that a column's name means; `None` for one of a query around this one.
    pub(super) fn reference(&self, node: &Node) -> Option<Reference> {
        let Some(NodeEnum::ColumnRef(reference)) = &node.node else { return None };
        let fields: Vec<&str> = reference.fields.iter().filter_map(string_of).collect();
        match fields.as_slice() {
            [alias, column] => {
                self.items.iter().any(|item| item.alias == *alias).then(|| ((*alias).to_owned(), (*column).to_owned()))
            }
            [column] => {
                let has = |item: &&Item| match &item.shape.columns {
                    Some(columns) => columns.iter().any(|found| found.name == *column) || item.alias == *column,
                    None => true,
                };
                self.items.iter().find(has).map(|item| (item.alias.clone(), (*column).to_owned()))
            }
            _ => None,
        }
    }

    /// The references of an expression; `None` if there is something in it that hides some.
    pub(super) fn references(&self, node: &Node) -> Option<BTreeSet<Reference>> {
        let mut found = BTreeSet::new();
        self.gather(&mut node.clone(), &mut found).then_some(found)
    }

    fn gather(&self, node: &mut Node, found: &mut BTreeSet<Reference>) -> bool {
        match &node.node {
            Some(NodeEnum::SubLink(_)) => return false,
            Some(NodeEnum::ColumnRef(reference)) => {
                if reference.fields.iter().any(|field| matches!(&field.node, Some(NodeEnum::AStar(_)))) {
                    return false;
                }
                found.extend(self.reference(node));
                return true;
            }
            Some(_) | None => {}
        }
        syntax::children(node).is_ok_and(|children| children.into_iter().all(|child| self.gather(child, found)))
    }

    fn column(&self, reference: &Reference) -> Option<&ShapeColumn> {
        let item = self.items.iter().find(|item| item.alias == reference.0)?;
        item.shape.columns.as_ref()?.iter().find(|column| column.name == reference.1)
    }

    /// The type of what a node refers to.
    pub(super) fn type_of(&self, node: &Node) -> Option<String> {
        self.column(&self.reference(node)?)?.type_name.clone()
    }

    /// Notes the equalities of a condition. `to` are the items of which it says something, and `given` those of which all must be
    /// known for it: the preserved side of an outer join.
    pub(super) fn learn(&mut self, condition: &Node, to: Option<&[String]>, given: &BTreeSet<usize>) {
        for conjunct in syntax::conjuncts(condition) {
            let Some(NodeEnum::AExpr(expression)) = &conjunct.node else { continue };
            let plain = expression.kind == AExprKind::AexprOp as i32 && name_parts(&expression.name).last() == Some(&"=");
            let (Some(left), Some(right), true) = (&expression.lexpr, &expression.rexpr, plain) else { continue };
            for (side, other) in [(left, right), (right, left)] {
                let (Some(reference), Some(from)) = (self.reference(side), self.references(other)) else { continue };
                if to.is_none_or(|to| to.contains(&reference.0)) && !from.contains(&reference) {
                    self.implied.push((from, given.clone(), reference));
                }
            }
        }
    }

    /// What is determined where these expressions have one value.
    pub(super) fn determined(&self, by: &[Node]) -> Determined {
        let mut found =
            Determined { items: BTreeSet::new(), references: by.iter().filter_map(|node| self.reference(node)).collect() };
        loop {
            let before = (found.items.len(), found.references.len());
            for (index, item) in self.items.iter().enumerate() {
                let knows = |column: &String| found.references.contains(&(item.alias.clone(), column.clone()));
                let all = |columns: &Vec<ShapeColumn>| columns.iter().all(|column| knows(&column.name));
                let by_key = item.shape.key.as_ref().is_some_and(|key| key.iter().all(knows));
                if by_key || item.shape.columns.as_ref().is_some_and(all) {
                    found.items.insert(index);
                    let columns = item.shape.columns.iter().flatten().map(|column| (item.alias.clone(), column.name.clone()));
                    found.references.extend(columns.collect::<Vec<_>>());
                }
            }
            for (from, given, to) in &self.implied {
                if from.is_subset(&found.references) && given.is_subset(&found.items) {
                    found.references.insert(to.clone());
                }
            }
            if before == (found.items.len(), found.references.len()) {
                return found;
            }
        }
    }

    /// Whether nothing is left open.
    pub(super) fn is_total(&self, determined: &Determined) -> bool {
        determined.items.len() == self.items.len()
    }

    /// Whether an expression has one value, and one look, whatever is left open.
    pub(super) fn is_fixed(&self, node: &Node, determined: &Determined) -> bool {
        let exact = |reference: &Reference| {
            let of_item = |index: &usize| {
                let item = &self.items[*index];
                item.alias == reference.0 && item.shape.key.as_ref().is_none_or(|key| !key.is_empty())
            };
            let type_name = self.column(reference).and_then(|column| column.type_name.as_deref());
            determined.items.iter().any(of_item) || type_name.is_some_and(is_exact)
        };
        self.references(node).is_some_and(|all| all.iter().all(|one| determined.references.contains(one) && exact(one)))
    }

    /// ORDER BY items that tell the rows apart as far as anything of them can be seen.
    pub(super) fn terms(&self) -> Option<Vec<String>> {
        let mut all = Vec::new();
        for item in &self.items {
            let columns = item.shape.columns.as_ref()?;
            let alias = quote::identifier(&item.alias);
            let value = |name: &String| format!("{alias}.{}", quote::identifier(name));
            match &item.shape.key {
                None if item.numbered => all.push(value(&ROW_NUMBER.to_owned())),
                Some(key) => all.extend(key.iter().map(|name| {
                    let type_name =
                        columns.iter().find(|column| column.name == *name).and_then(|column| column.type_name.as_deref());
                    term(&value(name), type_name)
                })),
                // Equal in all columns: then it does not matter which comes first.
                None => all.extend(columns.iter().map(|column| term(&value(&column.name), None))),
            }
        }
        Some(all)
    }
}

/// An ORDER BY item for a value. Texts are ordered by their bytes, so that every server agrees, and whatever has no order as text.
pub(super) fn term(value: &str, type_name: Option<&str>) -> String {
    if type_name.is_some_and(|type_name| is_one_of(type_name, [&PLAIN, &ORDERED])) {
        value.to_owned()
    } else {
        format!("({value})::text COLLATE \"C\"")
    }
}

fn is_exact(type_name: &str) -> bool {
    is_one_of(type_name, [&PLAIN, &EXACT]) || is_one_of(type_name, [&["numeric("], &[]])
}

/// The aliases below a FROM item.
pub(super) fn aliases(item: &Node, found: &mut Vec<String>) {
    let name = |alias: &Option<pg_query::protobuf::Alias>| alias.as_ref().map(|alias| alias.aliasname.clone());
    match &item.node {
        Some(NodeEnum::RangeVar(table)) => found.push(name(&table.alias).unwrap_or_else(|| table.relname.clone())),
        Some(NodeEnum::RangeSubselect(subselect)) => found.extend(name(&subselect.alias)),
        Some(NodeEnum::RangeFunction(function)) => found.extend(name(&function.alias)),
        Some(NodeEnum::JoinExpr(join)) => [&join.larg, &join.rarg].into_iter().flatten().for_each(|side| aliases(side, found)),
        Some(_) | None => {}
    }
}

/// Learns from the conditions of joins and of WHERE.
pub(super) fn learn_conditions(level: &mut Level, select: &SelectStmt) {
    for item in &select.from_clause {
        learn_joins(level, item);
    }
    if let Some(condition) = &select.where_clause {
        level.learn(condition, None, &BTreeSet::new());
    }
}

fn learn_joins(level: &mut Level, item: &Node) {
    let Some(NodeEnum::JoinExpr(join)) = &item.node else { return };
    for side in [&join.larg, &join.rarg].into_iter().flatten() {
        learn_joins(level, side);
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    join.larg.iter().for_each(|side| aliases(side, &mut left));
    join.rarg.iter().for_each(|side| aliases(side, &mut right));
    let indexes = |names: &[String]| -> BTreeSet<usize> {
        level.items.iter().enumerate().filter(|(_, item)| names.contains(&item.alias)).map(|(index, _)| index).collect()
    };
    let (given, to) = match JoinType::try_from(join.jointype).unwrap_or(JoinType::Undefined) {
        JoinType::JoinInner => (BTreeSet::new(), [left, right].concat()),
        JoinType::JoinLeft => (indexes(&left), right),
        JoinType::JoinRight => (indexes(&right), left),
        _ => return,
    };
    if let Some(condition) = &join.quals {
        level.learn(condition, Some(&to), &given);
    }
    for column in join.using_clause.iter().filter_map(string_of) {
        let owner = |names: &[String]| {
            let has = |item: &&Item| {
                names.contains(&item.alias) && item.shape.columns.iter().flatten().any(|found| found.name == column)
            };
            level.items.iter().find(has).map(|item| (item.alias.clone(), column.to_owned()))
        };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        join.larg.iter().for_each(|side| aliases(side, &mut left));
        join.rarg.iter().for_each(|side| aliases(side, &mut right));
        if let (Some(left), Some(right)) = (owner(&left), owner(&right)) {
            for (from, reference) in [(left.clone(), right.clone()), (right, left)] {
                if to.contains(&reference.0) {
                    level.implied.push((BTreeSet::from([from]), given.clone(), reference));
                }
            }
        }
    }
}

impl Determined {
    /// Whether a reference has one value, perhaps in several looks.
    pub(super) fn has(&self, reference: &Reference) -> bool {
        self.references.contains(reference)
    }
}
