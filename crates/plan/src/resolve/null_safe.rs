//! Equalities that two NULLs satisfy: `a IS NOT DISTINCT FROM b`, which PostgreSQL prints as `NOT (a IS DISTINCT FROM b)`, and
//! `a = b OR (a IS NULL AND b IS NULL)`.
//!
//! PostgreSQL has no index for the first, but for the operands of the second; and where the first holds, the second does. (Of a composite
//! value `IS NULL` says more than that it is NULL, so not the other way round.)

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, BoolExprType, Node, NullTestType};

use crate::model::obstacle::Outcome;
use crate::syntax::{self, conjuncts, name_parts, print_expression};

/// What holds if `NOT (a OR b)` does: `NOT a` and `NOT b`. So are rows compared.
pub(super) fn negated(conjunct: &Node) -> Vec<Node> {
    let Some(NodeEnum::BoolExpr(not)) = &conjunct.node else { return Vec::new() };
    match not.args.first().map(|inner| &inner.node) {
        Some(Some(NodeEnum::BoolExpr(inner)))
            if not.boolop() == BoolExprType::NotExpr && inner.boolop() == BoolExprType::OrExpr =>
        {
            inner.args.iter().cloned().map(syntax::not).collect()
        }
        Some(_) | None => Vec::new(),
    }
}

/// The sides of `a IS NOT DISTINCT FROM b`, in either form, with PostgreSQL's own operator.
pub(super) fn not_distinct(conjunct: &Node) -> Option<(&Node, &Node)> {
    match &conjunct.node {
        Some(NodeEnum::AExpr(_)) => sides(conjunct, AExprKind::AexprNotDistinct),
        Some(NodeEnum::BoolExpr(not)) if not.boolop() == BoolExprType::NotExpr => {
            sides(not.args.first()?, AExprKind::AexprDistinct)
        }
        Some(_) | None => None,
    }
}

/// The sides of `a = b OR (a IS NULL AND b IS NULL)`, in any order.
pub(super) fn equal_or_both_null(conjunct: &Node) -> Outcome<Option<(&Node, &Node)>> {
    let Some(NodeEnum::BoolExpr(or)) = &conjunct.node else { return Ok(None) };
    let ([one, other], BoolExprType::OrExpr) = (or.args.as_slice(), or.boolop()) else { return Ok(None) };
    let found = match (sides(one, AExprKind::AexprOp), sides(other, AExprKind::AexprOp)) {
        (Some(sides), None) => Some((sides, nulls(other))),
        (None, Some(sides)) => Some((sides, nulls(one))),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let Some(((left, right), Some((first, second)))) = found else { return Ok(None) };
    let mut wanted = [print_expression(left)?, print_expression(right)?];
    let mut tested = [print_expression(first)?, print_expression(second)?];
    wanted.sort();
    tested.sort();
    Ok((wanted == tested).then_some((left, right)))
}

/// `a = b OR (a IS NULL AND b IS NULL)`; `a = b` alone where one of them is never NULL.
pub(super) fn by_index(left: &str, right: &str, never_null: bool) -> Outcome<Node> {
    let text = if never_null {
        format!("({left}) = ({right})")
    } else {
        format!("(({left}) = ({right}) OR (({left}) IS NULL AND ({right}) IS NULL))")
    };
    Ok(syntax::parse_expression(&text)?)
}

/// The operands of `=`, or of what is called so with another kind of expression.
pub(super) fn sides(node: &Node, kind: AExprKind) -> Option<(&Node, &Node)> {
    let Some(NodeEnum::AExpr(comparison)) = &node.node else { return None };
    if comparison.kind() != kind || !matches!(name_parts(&comparison.name).as_slice(), ["="]) {
        return None;
    }
    Some((comparison.lexpr.as_deref()?, comparison.rexpr.as_deref()?))
}

/// The operands of `a IS NULL AND b IS NULL`.
fn nulls(node: &Node) -> Option<(&Node, &Node)> {
    let all = conjuncts(node);
    let [first, second] = all.as_slice() else { return None };
    Some((tested(first)?, tested(second)?))
}

fn tested(node: &Node) -> Option<&Node> {
    match &node.node {
        Some(NodeEnum::NullTest(test)) if test.nulltesttype() == NullTestType::IsNull => test.arg.as_deref(),
        Some(_) | None => None,
    }
}
