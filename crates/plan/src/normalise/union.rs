//! UNION and UNION ALL become a list of branches.

use pg_query::protobuf::{SelectStmt, SetOperation};

use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::is_set_operation;

/// How a query's branches make its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Combination {
    /// There is one, or all rows of all count (UNION ALL).
    All,
    /// Equal rows count once (UNION).
    Distinct,
}

/// The SELECTs that UNION (ALL) combines, left to right. ORDER BY of the whole is dropped: a table has no order.
pub(crate) fn arms(select: SelectStmt) -> Outcome<(Vec<SelectStmt>, Combination)> {
    if !is_set_operation(&select) {
        return Ok((vec![select], Combination::All));
    }
    // A UNION at the top makes what is below it distinct, whether that says ALL or not.
    let combination = if select.all { Combination::All } else { Combination::Distinct };
    let mut found = Vec::new();
    collect(select, combination, &mut found)?;
    Ok((found, combination))
}

fn collect(select: SelectStmt, combination: Combination, found: &mut Vec<SelectStmt>) -> Outcome<()> {
    if !is_set_operation(&select) {
        found.push(select);
        return Ok(());
    }
    if select.op != SetOperation::SetopUnion as i32 {
        return Err(Obstacle::new("it combines SELECTs with INTERSECT or EXCEPT"));
    }
    if select.limit_count.is_some() || select.limit_offset.is_some() {
        return Err(Obstacle::new("it has LIMIT or OFFSET over a UNION"));
    }
    if combination == Combination::All && !select.all {
        return Err(Obstacle::new("it has a UNION inside a UNION ALL"));
    }
    for side in [select.larg, select.rarg].into_iter().flatten() {
        collect(*side, combination, found)?;
    }
    Ok(())
}
