//! A full join becomes two branches.
//!
//! `a FULL JOIN b ON c` is the rows that `a` owns and, apart from them, the rows of `b` that met none:
//!
//! ```sql
//! SELECT … FROM a LEFT JOIN b ON c
//! UNION ALL
//! SELECT … FROM a RIGHT JOIN b ON false WHERE NOT EXISTS (SELECT FROM a WHERE c)
//! ```
//!
//! The second keeps `a` in its FROM clause only so that references to its columns give NULLs of the right types. Inside NOT EXISTS
//! the inner `a` hides the outer one, so the condition can stay as it is. Where `a` has full joins itself, NOT EXISTS is said of each of
//! its branches.
//!
//! Where c says `a.x = b.y`, `coalesce(a.x, b.y)` is `a.x` in the first: a `b` that was met has the same, and where none was met it is NULL. In
//! the second it is `b.y`. So what USING merges is a column again, by which more can be joined.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, CoalesceExpr, JoinExpr, JoinType, Node, SelectStmt, SubLink, SubLinkType};

use super::union::type_of;
use crate::model::facts::Relation;
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, children, clauses, names_of, print_expression, wrap};

/// More full joins than this in one FROM clause are not worth their branches.
const BRANCHES_MAX: usize = 8;

/// The branches of a SELECT: itself, unless its FROM clause has full joins.
pub(crate) fn split_full_joins(select: SelectStmt, relations: &[Relation]) -> Outcome<Vec<SelectStmt>> {
    let mut done = Vec::new();
    let mut waiting = vec![select];
    while let Some(next) = waiting.pop() {
        match split_first(&next, relations)? {
            None => done.push(next),
            Some((left, right)) => waiting.extend([right, left]),
        }
        if done.len() + waiting.len() > BRANCHES_MAX {
            return Err(Obstacle::new("it has too many full joins"));
        }
    }
    Ok(done)
}

fn split_first(select: &SelectStmt, relations: &[Relation]) -> Outcome<Option<(SelectStmt, SelectStmt)>> {
    let mut left = select.clone();
    let Some(join) = left.from_clause.iter_mut().find_map(first_full_join) else { return Ok(None) };
    if !join.using_clause.is_empty() || join.is_natural {
        return Err(Obstacle::new("it has a full join with USING, whose columns are of both sides")
            .instead("write the condition with ON, and coalesce(…) for the columns"));
    }
    let merged = merged(join, select, relations)?;
    join.jointype = JoinType::JoinLeft as i32;
    let mut right = select.clone();
    let Some(join) = right.from_clause.iter_mut().find_map(first_full_join) else { return Ok(None) };
    for unmatched in owned_by_right(join, relations)? {
        right.where_clause = Some(syntax::and(right.where_clause.take(), unmatched));
    }
    for Merged { both, left: of_left, right: of_right } in &merged {
        replace(&mut left, both, of_left)?;
        replace(&mut right, both, of_right)?;
    }
    Ok(Some((left, right)))
}

/// What a full join says to be equal: `coalesce(left, right)`, printed, and its sides.
struct Merged {
    both: String,
    left: Node,
    right: Node,
}

/// The columns of one type that a full join's condition makes equal.
fn merged(join: &JoinExpr, select: &SelectStmt, relations: &[Relation]) -> Outcome<Vec<Merged>> {
    let (Some(left), Some(right), Some(condition)) = (&join.larg, &join.rarg, &join.quals) else { return Ok(Vec::new()) };
    let (left, right) = (names_of(&**left)?, names_of(&**right)?);
    let mut found = Vec::new();
    for conjunct in syntax::conjuncts(condition) {
        let Some(NodeEnum::AExpr(equality)) = &conjunct.node else { continue };
        let (Some(a), Some(b)) = (equality.lexpr.as_deref(), equality.rexpr.as_deref()) else { continue };
        if equality.kind != AExprKind::AexprOp as i32 || syntax::name_parts(&equality.name) != ["="] {
            continue;
        }
        for (of_left, of_right) in [(a, b), (b, a)] {
            let of_sides = is_of(of_left, &left) && is_of(of_right, &right);
            let types = (type_of(of_left, select, relations)?, type_of(of_right, select, relations)?);
            if !of_sides || types.0.is_none() || types.0 != types.1 {
                continue;
            }
            let args = vec![of_left.clone(), of_right.clone()];
            let both = wrap(NodeEnum::CoalesceExpr(Box::new(CoalesceExpr { args, ..CoalesceExpr::default() })));
            found.push(Merged { both: print_expression(&both)?, left: of_left.clone(), right: of_right.clone() });
        }
    }
    Ok(found)
}

/// Whether an expression is a column of some tables, or the first of several that is not NULL: NULL where all of those tables are.
fn is_of(node: &Node, tables: &BTreeSet<String>) -> bool {
    match &node.node {
        Some(NodeEnum::ColumnRef(reference)) => {
            matches!(syntax::name_parts(&reference.fields).as_slice(), [table, _] if tables.contains(*table))
        }
        Some(NodeEnum::CoalesceExpr(first)) => first.args.iter().all(|argument| is_of(argument, tables)),
        Some(_) | None => false,
    }
}

/// Replaces an expression wherever it stands in a SELECT's clauses and in the conditions of its joins.
fn replace(select: &mut SelectStmt, text: &str, value: &Node) -> Outcome<()> {
    fn within(node: &mut Node, text: &str, value: &Node) -> Outcome<()> {
        if matches!(&node.node, Some(NodeEnum::CoalesceExpr(_))) && print_expression(node)? == text {
            *node = value.clone();
            return Ok(());
        }
        children(node)?.into_iter().try_for_each(|child| within(child, text, value))
    }
    fn in_item(item: &mut Node, text: &str, value: &Node) -> Outcome<()> {
        let Some(NodeEnum::JoinExpr(join)) = item.node.as_mut() else { return Ok(()) };
        let JoinExpr { larg, rarg, quals, .. } = &mut **join;
        for side in [larg, rarg].into_iter().flatten() {
            in_item(side, text, value)?;
        }
        quals.as_deref_mut().map_or(Ok(()), |condition| within(condition, text, value))
    }
    select.from_clause.iter_mut().try_for_each(|item| in_item(item, text, value))?;
    for target in &mut select.target_list {
        // A column is named before what it is changes.
        let Some(NodeEnum::ResTarget(target)) = target.node.as_mut() else { continue };
        let is_it = target.val.as_deref().map(print_expression).transpose()?.as_deref() == Some(text);
        if is_it && target.name.is_empty() {
            "coalesce".clone_into(&mut target.name);
        }
    }
    clauses(select).into_iter().try_for_each(|clause| within(clause, text, value))
}

/// The outermost full join of a FROM item whose rows no join above it replaces by NULLs: over those the split distributes.
fn first_full_join(item: &mut Node) -> Option<&mut JoinExpr> {
    let Some(NodeEnum::JoinExpr(join)) = item.node.as_mut() else { return None };
    let kind = JoinType::try_from(join.jointype).unwrap_or(JoinType::Undefined);
    if kind == JoinType::JoinFull {
        return Some(join);
    }
    let JoinExpr { larg, rarg, .. } = &mut **join;
    let left = larg.as_deref_mut().filter(|_| kind != JoinType::JoinRight);
    let right = rarg.as_deref_mut().filter(|_| kind != JoinType::JoinLeft);
    left.and_then(first_full_join).or_else(|| right.and_then(first_full_join))
}

/// Turns `a FULL JOIN b ON c` into `a RIGHT JOIN b ON false` and returns the conditions that no `a` meets `b`.
fn owned_by_right(join: &mut JoinExpr, relations: &[Relation]) -> Outcome<Vec<Node>> {
    let left = join.larg.as_deref().cloned().unwrap_or_default();
    let condition = join.quals.take();
    let unmatched = SelectStmt {
        from_clause: vec![left],
        where_clause: condition,
        limit_option: pg_query::protobuf::LimitOption::Default as i32,
        op: pg_query::protobuf::SetOperation::SetopNone as i32,
        target_list: vec![syntax::target("", syntax::parse_expression("1")?)],
        ..SelectStmt::default()
    };
    // Nothing of the left side is in these rows, so how its parts are joined does not matter.
    if let Some(left) = join.larg.as_deref_mut() {
        as_left_joins(left);
    }
    join.jointype = JoinType::JoinRight as i32;
    join.quals = Some(Box::new(syntax::parse_expression("false")?));
    let not_exists = |select: SelectStmt| {
        let exists = SubLink {
            sub_link_type: SubLinkType::ExistsSublink as i32,
            subselect: Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(select))))),
            ..SubLink::default()
        };
        syntax::not(wrap(NodeEnum::SubLink(Box::new(exists))))
    };
    Ok(split_full_joins(unmatched, relations)?.into_iter().map(not_exists).collect())
}

fn as_left_joins(item: &mut Node) {
    let Some(NodeEnum::JoinExpr(join)) = item.node.as_mut() else { return };
    if join.jointype == JoinType::JoinFull as i32 {
        join.jointype = JoinType::JoinLeft as i32;
    }
    for side in [&mut join.larg, &mut join.rarg].into_iter().flatten() {
        as_left_joins(side);
    }
}
