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
//! the inner `a` hides the outer one, so the condition can stay as it is.

use pg_query::NodeEnum;
use pg_query::protobuf::{JoinExpr, JoinType, Node, SelectStmt, SubLink, SubLinkType};

use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, wrap};

/// More full joins than this in one FROM clause are not worth their branches.
const BRANCHES_MAX: usize = 8;

/// The branches of a SELECT: itself, unless its FROM clause has full joins.
pub(crate) fn split_full_joins(select: SelectStmt) -> Outcome<Vec<SelectStmt>> {
    let mut done = Vec::new();
    let mut waiting = vec![select];
    while let Some(next) = waiting.pop() {
        match split_first(&next)? {
            None => done.push(next),
            Some((left, right)) => waiting.extend([right, left]),
        }
        if done.len() + waiting.len() > BRANCHES_MAX {
            return Err(Obstacle::new("it has too many full joins"));
        }
    }
    Ok(done)
}

fn split_first(select: &SelectStmt) -> Outcome<Option<(SelectStmt, SelectStmt)>> {
    let mut left = select.clone();
    let Some(join) = left.from_clause.iter_mut().find_map(first_full_join) else { return Ok(None) };
    if !join.using_clause.is_empty() || join.is_natural {
        return Err(Obstacle::new("it has a full join with USING, whose columns are of both sides; write the condition with ON"));
    }
    join.jointype = JoinType::JoinLeft as i32;
    let mut right = select.clone();
    let Some(join) = right.from_clause.iter_mut().find_map(first_full_join) else { return Ok(None) };
    let unmatched = owned_by_right(join)?;
    right.where_clause = Some(syntax::and(right.where_clause.take(), unmatched));
    Ok(Some((left, right)))
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

/// Turns `a FULL JOIN b ON c` into `a RIGHT JOIN b ON false` and returns the condition that no `a` meets `b`.
fn owned_by_right(join: &mut JoinExpr) -> Outcome<Node> {
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
    let exists = SubLink {
        sub_link_type: SubLinkType::ExistsSublink as i32,
        subselect: Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(unmatched))))),
        ..SubLink::default()
    };
    Ok(syntax::not(wrap(NodeEnum::SubLink(Box::new(exists)))))
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
