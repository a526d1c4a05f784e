//! Conditions other than equalities that tie an occurrence to others: ranges, overlaps, prefixes, and OR of such and of equalities.
//!
//! The rule: a condition of WHERE or ON over columns of X and of others says which rows of X matter to a row of the others. Only operators
//! that an index can narrow are taken: `<>` relates nearly all rows with all others, and a change would concern nearly all roots.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, BoolExprType, Node};

use super::scope::{Name, Range, Resolver, Searched, SearchedBy, Source, contains_subquery, see_through};
use super::time::contains_clock;
use crate::model::obstacle::Outcome;
use crate::syntax::{any, children, conjuncts, name_parts, print_expression, string_of};

const ORDERS: [&str; 5] = ["<", "<=", ">", ">=", "="];
const PREFIXES: [&str; 2] = ["^@", "~~"];

/// An operator of which each operand is on its own side.
struct Leaf<'a> {
    operator: &'a str,
    left: &'a Node,
    right: &'a Node,
}

impl Resolver<'_> {
    /// Notes what a conjunct says about the constrained occurrences in it.
    pub(super) fn add_ranges(&mut self, conjunct: &Node, constrained: &BTreeSet<usize>) -> Outcome<()> {
        let Some(condition) = see_through(conjunct, &self.names, &self.derived) else { return Ok(()) };
        if contains_subquery(&condition)? || contains_clock(&condition)? || any(&condition, &holds_star)? {
            return Ok(());
        }
        let Ok(references) = self.references(&condition) else { return Ok(()) };
        if references.len() < 2 || !self.rejects_nulls(&condition, &references)? {
            return Ok(());
        }
        let leaves = leaves(&condition);
        for &occurrence in references.intersection(constrained) {
            let Source::Table(relation) = &self.occurrences[occurrence].source else { continue };
            if !self.narrows(&condition, occurrence)? {
                continue;
            }
            let mut columns = Vec::new();
            self.columns_of(&mut condition.clone(), occurrence, &mut columns)?;
            // Values that travel as text would be compared under another collation.
            if columns.iter().any(|column| self.relations[*relation].column(column).is_none_or(|found| found.own_collation)) {
                continue;
            }
            let range = Range {
                occurrence,
                sql: print_expression(&condition)?,
                columns,
                depends_on: references.iter().copied().filter(|&index| index != occurrence).collect(),
                searched: leaves.iter().flat_map(|leaf| self.searched(leaf)).collect(),
                is_or: is_or(&condition),
                condition: condition.clone(),
            };
            self.ranges.push(range);
        }
        Ok(())
    }

    /// Whether the condition holds for no row in which something that may be replaced by NULLs is: what then held for NULLs would depend on
    /// rows that do not satisfy it, or on a row that is not there.
    fn rejects_nulls(&self, condition: &Node, references: &BTreeSet<usize>) -> Outcome<bool> {
        for &index in references {
            if self.is_nullable_now(index) && !self.rejects(condition, index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the condition compares the occurrence with others, by an operator that an index can narrow.
    fn narrows(&self, condition: &Node, occurrence: usize) -> Outcome<bool> {
        if let Some(leaf) = leaf(condition) {
            let references = self.references(condition)?;
            return Ok(references.contains(&occurrence)
                && references.len() > 1
                && (leaf.operator != "~~" || is_prefix(leaf.right)));
        }
        match &condition.node {
            Some(NodeEnum::BoolExpr(expression)) if expression.boolop() == BoolExprType::OrExpr => {
                all(&expression.args, |arm| self.narrows(arm, occurrence))
            }
            Some(NodeEnum::BoolExpr(expression)) if expression.boolop() == BoolExprType::AndExpr => {
                Ok(!all(&conjuncts(condition), |part| Ok(!self.narrows(part, occurrence)?))?)
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Whether the condition holds for no row in which the occurrence is replaced by NULLs.
    fn rejects(&self, condition: &Node, occurrence: usize) -> Outcome<bool> {
        if let Some(Leaf { left, right, .. }) = leaf(condition) {
            return Ok(self.references(condition)?.contains(&occurrence) && self.is_strict(left)? && self.is_strict(right)?);
        }
        match &condition.node {
            Some(NodeEnum::BoolExpr(expression)) if expression.boolop() == BoolExprType::OrExpr => {
                all(&expression.args, |arm| self.rejects(arm, occurrence))
            }
            Some(NodeEnum::BoolExpr(expression)) if expression.boolop() == BoolExprType::AndExpr => {
                Ok(!all(&conjuncts(condition), |part| Ok(!self.rejects(part, occurrence)?))?)
            }
            Some(_) | None => Ok(false),
        }
    }

    fn columns_of(&self, node: &mut Node, occurrence: usize, found: &mut Vec<String>) -> Outcome<()> {
        if let Some(NodeEnum::ColumnRef(reference)) = &node.node
            && let [alias, column] = reference.fields.as_slice()
            && string_of(alias).and_then(|alias| self.names.get(alias)) == Some(&Name::Occurrence(occurrence))
        {
            let column = string_of(column).unwrap_or_default().to_owned();
            if !found.contains(&column) {
                found.push(column);
            }
        }
        children(node)?.into_iter().try_for_each(|child| self.columns_of(child, occurrence, found))
    }

    fn searched(&self, leaf: &Leaf<'_>) -> Vec<Searched> {
        let by =
            |node: &Node, by: SearchedBy| self.plain_column(node).map(|(occurrence, column)| Searched { occurrence, column, by });
        let (left, right) = match leaf.operator {
            "&&" => (by(leaf.left, SearchedBy::Content), by(leaf.right, SearchedBy::Content)),
            "@>" => (by(leaf.left, SearchedBy::Content), None),
            "<@" => (None, by(leaf.right, SearchedBy::Content)),
            // PostgreSQL looks up a prefix only where it knows it beforehand.
            "^@" | "~~" => (None, None),
            _ => (by(leaf.left, SearchedBy::Order), by(leaf.right, SearchedBy::Order)),
        };
        left.into_iter().chain(right).collect()
    }
}

/// A comparison by an operator of PostgreSQL's own. All of them are strict.
fn leaf(node: &Node) -> Option<Leaf<'_>> {
    let Some(NodeEnum::AExpr(comparison)) = &node.node else { return None };
    let names = name_parts(&comparison.name);
    let (&[operator], AExprKind::AexprOp | AExprKind::AexprLike) = (names.as_slice(), comparison.kind()) else { return None };
    let known = ORDERS.contains(&operator) || PREFIXES.contains(&operator) || ["&&", "@>", "<@"].contains(&operator);
    known.then_some(())?;
    Some(Leaf { operator, left: comparison.lexpr.as_deref()?, right: comparison.rexpr.as_deref()? })
}

fn leaves(condition: &Node) -> Vec<Leaf<'_>> {
    match &condition.node {
        Some(NodeEnum::BoolExpr(expression)) => expression.args.iter().flat_map(leaves).collect(),
        Some(_) | None => leaf(condition).into_iter().collect(),
    }
}

fn is_or(condition: &Node) -> bool {
    matches!(&condition.node, Some(NodeEnum::BoolExpr(expression)) if expression.boolop() == BoolExprType::OrExpr)
}

/// `prefix || '%'`: what does not begin with a constant.
fn is_prefix(pattern: &Node) -> bool {
    match &pattern.node {
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_prefix),
        Some(NodeEnum::AExpr(concatenation)) if name_parts(&concatenation.name).as_slice() == ["||"] => {
            concatenation.lexpr.as_deref().is_some_and(|first| is_prefix(first) || begins_with_column(first))
        }
        Some(_) | None => false,
    }
}

fn begins_with_column(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::ColumnRef(_) | NodeEnum::FuncCall(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(begins_with_column),
        Some(_) | None => false,
    }
}

fn holds_star(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::ColumnRef(reference)) => {
            reference.fields.len() != 2 || reference.fields.iter().any(|field| string_of(field).is_none())
        }
        Some(_) | None => false,
    }
}

fn all<T: std::borrow::Borrow<Node>>(nodes: &[T], holds: impl Fn(&Node) -> Outcome<bool>) -> Outcome<bool> {
    for node in nodes {
        if !holds(node.borrow())? {
            return Ok(false);
        }
    }
    Ok(true)
}
