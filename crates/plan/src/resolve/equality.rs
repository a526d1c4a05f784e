//! The equalities that tie an occurrence to others: for given values of the others, only rows that satisfy them matter.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, BoolExprType, Node, SelectStmt};

use super::null_safe::{by_index, equal_or_both_null, negated, not_distinct, sides};
use super::scope::{Context, Equality, Name, Resolver, Side, Source, contains_subquery, see_through};
use super::time::contains_clock;
use crate::model::agreement::Nulls;
use crate::model::obstacle::Outcome;
use crate::syntax::{self, children, conjuncts, name_parts, print_expression, string_of, target_expression};

/// What ties an occurrence, and what NULLs do there.
#[derive(Debug, Clone, Copy)]
enum Tie {
    /// A condition of WHERE or ON.
    Condition(Nulls),
    /// `value IN (SELECT side …)`.
    Membership(Nulls),
}

impl Tie {
    fn nulls(self) -> Nulls {
        match self {
            Self::Condition(nulls) | Self::Membership(nulls) => nulls,
        }
    }
}

impl Resolver<'_> {
    /// Collects from a condition's conjuncts what they say about the constrained occurrences.
    pub(super) fn collect(&mut self, condition: &Node, constrained: &BTreeSet<usize>) -> Outcome<()> {
        let mut all: Vec<Node> = Vec::new();
        for conjunct in conjuncts(condition) {
            all.push(conjunct.clone());
            all.extend(negated(conjunct));
            all.extend(common_to_all(conjunct)?);
        }
        for conjunct in &all {
            let plain = sides(conjunct, AExprKind::AexprOp).map(|sides| (sides, false));
            let null_safe = not_distinct(conjunct).or(equal_or_both_null(conjunct)?).map(|sides| (sides, true));
            if let Some(((left, right), equal)) = plain.or(null_safe) {
                // Where one of them is never NULL, two NULLs do not meet.
                let equal = equal && !self.is_not_null_now(left) && !self.is_not_null_now(right);
                let tie = Tie::Condition(Nulls { equal, ..Nulls::default() });
                self.add_equality(left, right, constrained, tie)?;
                self.add_equality(right, left, constrained, tie)?;
            }
            self.add_ranges(conjunct, constrained)?;
            self.add_filter(conjunct, constrained)?;
        }
        Ok(())
    }

    /// Adds to a condition what follows from it and PostgreSQL can use an index for.
    pub(super) fn narrow(&self, condition: &mut Node) -> Outcome<()> {
        let mut narrower = Vec::new();
        for conjunct in conjuncts(condition) {
            let parts = negated(conjunct);
            for part in std::iter::once(conjunct).chain(&parts) {
                let Some((left, right)) = not_distinct(part) else { continue };
                if !contains_subquery(part)? && !contains_clock(part)? && !holds_row(left) && !holds_row(right) {
                    let never_null = self.is_not_null_now(left) || self.is_not_null_now(right);
                    narrower.push(by_index(&print_expression(left)?, &print_expression(right)?, never_null)?);
                }
            }
        }
        for part in narrower {
            *condition = *syntax::and(Some(Box::new(std::mem::take(condition))), part);
        }
        Ok(())
    }

    /// A condition on one occurrence alone narrows which of its rows matter.
    fn add_filter(&mut self, conjunct: &Node, constrained: &BTreeSet<usize>) -> Outcome<()> {
        let Some(seen) = see_through(conjunct, &self.names, &self.derived) else { return Ok(()) };
        if contains_subquery(&seen)? || contains_clock(&seen)? {
            return Ok(());
        }
        let Ok(references) = self.references(&seen) else { return Ok(()) };
        if let [occurrence] = references.into_iter().collect::<Vec<_>>()[..]
            && constrained.contains(&occurrence)
            && !self.is_nullable_now(occurrence)
        {
            self.occurrences[occurrence].filters.push(seen);
        }
        Ok(())
    }

    /// Notes `side = value` if `side` is about one constrained occurrence.
    ///
    /// Where an outer join may have replaced a row by NULLs, an expression that makes something of a NULL (`coalesce`) would hold for
    /// the NULLs too; so there both sides must be strict. An equality that NULLs satisfy holds for them, and then a row of which it does
    /// not hold matters as well: it keeps the NULLs away.
    fn add_equality(&mut self, side: &Node, value: &Node, constrained: &BTreeSet<usize>, tie: Tie) -> Outcome<()> {
        let through = |node: &Node| see_through(node, &self.names, &self.derived);
        let written = side;
        let (Some(side), Some(value)) = (through(side), through(value)) else { return Ok(()) };
        if contains_subquery(&side)? || contains_subquery(&value)? || contains_clock(&side)? || contains_clock(&value)? {
            return Ok(());
        }
        let (Ok(sides), Ok(depends_on)) = (self.references(&side), self.references(&value)) else { return Ok(()) };
        let [occurrence] = sides.into_iter().collect::<Vec<_>>()[..] else { return Ok(()) };
        let is_table = matches!(self.occurrences[occurrence].source, Source::Table(_));
        if !is_table || !constrained.contains(&occurrence) || depends_on.contains(&occurrence) {
            return Ok(());
        }
        let side_replaced = self.occurrences[occurrence].nullable || self.is_nullable_now(occurrence);
        let nulls = tie.nulls();
        // A member that is NULL because nothing was joined has no row of its own that would come or go.
        if nulls.in_side && side_replaced {
            return Ok(());
        }
        if self.is_nullable_now(occurrence) && (nulls.equal || !self.is_strict(&side)?) {
            return Ok(());
        }
        let replaced = depends_on.iter().any(|&index| self.is_nullable_now(index));
        // Where the value is NULL because nothing was joined, there is no row on the path to show it.
        if replaced && (!self.is_strict(&value)? || nulls.in_value || nulls.equal) {
            return Ok(());
        }
        if holds_row(&side) || holds_row(&value) {
            return Ok(());
        }
        let (bare, cast) = strip_cast(&side);
        self.equalities.push(Equality {
            occurrence,
            side_sql: print_expression(&side)?,
            column: self.plain_column(bare).map(|(_, column)| column),
            cast,
            value: print_expression(&value)?,
            value_column: self.plain_column(&value),
            depends_on,
            from_outside: *written != side,
            membership: matches!(tie, Tie::Membership(_)),
            nulls,
            side,
        });
        Ok(())
    }

    /// `x IN (SELECT y.c …)` ties `y.c` to `x`: for one `x`, only rows with `c = x` matter.
    ///
    /// Where NULL and false differ, so do other rows when `x` or `c` is NULL; see [`Nulls`]. So for each of several columns: a row is no
    /// member for certain where some column of it and of the test are both there and differ.
    pub(super) fn membership(
        &mut self,
        test: &Node,
        select: &SelectStmt,
        separating: &[bool],
        inner: &Side,
        context: Context,
    ) -> Outcome<()> {
        let members: Vec<&Node> = select.target_list.iter().filter_map(target_expression).collect();
        let tests: Vec<&Node> = match &test.node {
            Some(NodeEnum::RowExpr(row)) => row.args.iter().collect(),
            Some(_) | None => vec![test],
        };
        if members.len() != tests.len() {
            return Ok(());
        }
        self.extended.push(inner.nullable.clone());
        for ((test, member), _) in tests.iter().zip(&members).zip(separating).filter(|(_, separates)| **separates) {
            let mut nulls = Nulls::default();
            if context == Context::Value {
                nulls = Nulls { equal: false, in_value: !self.never_null(test), in_side: !self.never_null(member) };
            }
            self.add_equality(member, test, &inner.all, Tie::Membership(nulls))?;
        }
        self.extended.pop();
        Ok(())
    }

    /// Whether the expression is a column that is never NULL, whatever joins may do around it.
    fn never_null(&self, node: &Node) -> bool {
        self.not_null_column(node).is_some_and(|index| !self.occurrences[index].nullable && !self.is_nullable_now(index))
    }

    /// Whether it is a column that is not NULL where it is evaluated now.
    fn is_not_null_now(&self, node: &Node) -> bool {
        self.not_null_column(node).is_some_and(|index| !self.is_nullable_now(index))
    }

    /// The occurrence of a column that is declared NOT NULL.
    fn not_null_column(&self, node: &Node) -> Option<usize> {
        let seen = see_through(node, &self.names, &self.derived)?;
        let (bare, _) = strip_cast(&seen);
        let (index, column) = self.plain_column(bare)?;
        let Source::Table(relation) = &self.occurrences[index].source else { return None };
        self.relations[*relation].column(&column)?.not_null.then_some(index)
    }

    /// Whether the expression is NULL as soon as one of its columns is.
    pub(super) fn is_strict(&self, node: &Node) -> Outcome<bool> {
        const STRICT_OPERATORS: [&str; 10] = ["+", "-", "*", "/", "%", "->", "->>", "#>", "#>>", "="];
        let by_kind = match &node.node {
            Some(NodeEnum::ColumnRef(_) | NodeEnum::AConst(_)) => return Ok(true),
            Some(NodeEnum::TypeCast(_) | NodeEnum::CollateClause(_)) => true,
            Some(NodeEnum::AExpr(operation)) => {
                let operator = name_parts(&operation.name);
                operation.kind == AExprKind::AexprOp as i32
                    && matches!(operator.as_slice(), [one] if STRICT_OPERATORS.contains(one))
            }
            Some(NodeEnum::FuncCall(call)) => {
                let name = name_parts(&call.funcname).last().copied().unwrap_or_default().to_owned();
                let mut same = self.functions.iter().filter(|function| function.name == name).peekable();
                same.peek().is_some() && same.all(|function| function.strict)
            }
            Some(_) | None => false,
        };
        if !by_kind {
            return Ok(false);
        }
        // A constant beside a column is no harm, but something must be a column.
        let mut copy = node.clone();
        for child in children(&mut copy)? {
            if !self.is_strict(child)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The occurrence and column of a qualified reference to a table's column.
    pub(super) fn plain_column(&self, node: &Node) -> Option<(usize, String)> {
        let Some(NodeEnum::ColumnRef(reference)) = &node.node else { return None };
        let [alias, column] = reference.fields.as_slice() else { return None };
        match self.names.get(string_of(alias)?)? {
            Name::Occurrence(index) if matches!(self.occurrences[*index].source, Source::Table(_)) => {
                Some((*index, string_of(column)?.to_owned()))
            }
            Name::Occurrence(_) | Name::Derived(_) => None,
        }
    }
}

/// What every operand of an OR says: `(a AND b) OR (a AND c)` says `a`.
fn common_to_all(node: &Node) -> Outcome<Vec<Node>> {
    let Some(NodeEnum::BoolExpr(expression)) = &node.node else { return Ok(Vec::new()) };
    if expression.boolop != BoolExprType::OrExpr as i32 {
        return Ok(Vec::new());
    }
    let mut operands = expression.args.iter().map(conjuncts);
    let Some(mut common) = operands.next() else { return Ok(Vec::new()) };
    for operand in operands {
        let texts: Vec<String> = operand.into_iter().map(print_expression).collect::<Result<_, _>>()?;
        let mut kept = Vec::new();
        for conjunct in common {
            if texts.contains(&print_expression(conjunct)?) {
                kept.push(conjunct);
            }
        }
        common = kept;
    }
    Ok(common.into_iter().cloned().collect())
}

/// `(a, b) = (c, d)` and `t.* = u.*` compare rows, which have no column of their own.
fn holds_row(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::RowExpr(_)) => true,
        Some(NodeEnum::ColumnRef(reference)) => {
            reference.fields.last().is_none_or(|field| matches!(&field.node, Some(NodeEnum::AStar(_))))
        }
        Some(_) | None => false,
    }
}

/// Takes off a cast to text, which PostgreSQL adds around varchar columns in comparisons and which loses nothing.
fn strip_cast(node: &Node) -> (&Node, Option<String>) {
    if let Some(NodeEnum::TypeCast(cast)) = &node.node
        && let (Some(argument), Some(type_name)) = (&cast.arg, &cast.type_name)
        && name_parts(&type_name.names).last() == Some(&"text")
        && type_name.array_bounds.is_empty()
    {
        return (argument, Some("text".to_owned()));
    }
    (node, None)
}
