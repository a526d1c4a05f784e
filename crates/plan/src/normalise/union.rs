//! Set operations become a list of arms, and how often a row counts.
//!
//! The rule: with a row r of which arm i has `nᵢ(r)`, `UNION ALL` has `a + b`, `INTERSECT ALL` `least(a, b)`, `EXCEPT ALL` `greatest(0, a - b)`;
//! without ALL the same over `least(1, n)` on both sides, of which there is one at most.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeVar, SelectStmt, SetOperation};

use crate::model::contributions::{ARM, CONTRIBUTION_ALIAS};
use crate::model::facts::{OutputColumn, Relation};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{is_set_operation, name_parts, print_expression, target_expression};

/// How a query's arms make its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Combination {
    /// There is one, or all rows of all count (UNION ALL).
    All,
    /// Equal rows count once (UNION).
    Distinct,
    /// Equal rows count as often as this says, over how often each arm has them.
    Counted {
        /// An expression over the contributions of a group.
        count: String,
        /// Whether it is never more than one.
        once: bool,
    },
}

/// The SELECTs that set operations combine, left to right. ORDER BY of the whole is dropped: a table has no order.
pub(crate) fn arms(select: SelectStmt) -> Outcome<(Vec<SelectStmt>, Combination)> {
    if !is_set_operation(&select) {
        return Ok((vec![select], Combination::All));
    }
    // A UNION at the top makes what is below it distinct, whether that says ALL or not.
    let combination = match (is_union_throughout(&select, select.all), select.all) {
        (true, true) => Some(Combination::All),
        (true, false) => Some(Combination::Distinct),
        (false, _) => None,
    };
    let once = !select.all;
    let mut found = Vec::new();
    let count = collect(select, &mut found)?;
    Ok((found, combination.unwrap_or(Combination::Counted { count, once })))
}

/// Whether it is UNION at every level, and UNION ALL at every level if `all`.
fn is_union_throughout(select: &SelectStmt, all: bool) -> bool {
    if !is_set_operation(select) {
        return true;
    }
    let is_union = select.op == SetOperation::SetopUnion as i32 && (select.all || !all);
    is_union && [&select.larg, &select.rarg].into_iter().flatten().all(|side| is_union_throughout(side, all))
}

/// Collects the arms; how often the whole has a row, by how often they have it.
fn collect(select: SelectStmt, found: &mut Vec<SelectStmt>) -> Outcome<String> {
    if !is_set_operation(&select) {
        found.push(select);
        return Ok(format!("count(*) FILTER (WHERE {CONTRIBUTION_ALIAS}.{ARM} = {})", found.len()));
    }
    if select.limit_count.is_some() || select.limit_offset.is_some() {
        return Err(Obstacle::new("it has LIMIT or OFFSET over a set operation")
            .instead("write the set operation as a subquery in FROM, and ORDER BY and LIMIT outside of it"));
    }
    let (operation, all) = (select.op, select.all);
    let mut side = |side: Option<Box<SelectStmt>>| match side {
        Some(side) => collect(*side, found),
        None => Err(Obstacle::new("a set operation lacks a side")),
    };
    let (left, right) = (side(select.larg)?, side(select.rarg)?);
    let once = |count: &str| if all { count.to_owned() } else { format!("least(1, {count})") };
    match SetOperation::try_from(operation) {
        Ok(SetOperation::SetopUnion) => Ok(once(&format!("({left} + {right})"))),
        Ok(SetOperation::SetopIntersect) => Ok(format!("least({}, {})", once(&left), once(&right))),
        Ok(SetOperation::SetopExcept) => Ok(format!("greatest(0, {} - {})", once(&left), once(&right))),
        Ok(SetOperation::Undefined | SetOperation::SetopNone) | Err(_) => {
            Err(Obstacle::new("it combines SELECTs in a way that is not known"))
        }
    }
}

/// Whether every arm's columns are seen to be of the result's types. Arms are cast to these, but an inner set operation compares its rows
/// under types of its own.
pub(crate) fn is_typed(arms: &[SelectStmt], relations: &[Relation], columns: &[OutputColumn]) -> Outcome<bool> {
    for arm in arms {
        for (target, column) in arm.target_list.iter().zip(columns) {
            let typed = match target_expression(target) {
                Some(value) => type_of(value, arm, relations)?.is_some_and(|found| found == column.type_name),
                None => false,
            };
            if !typed {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The type of a table's column, of a cast, or of the first that is not NULL of such.
pub(super) fn type_of(value: &Node, arm: &SelectStmt, relations: &[Relation]) -> Outcome<Option<String>> {
    Ok(match &value.node {
        Some(NodeEnum::ColumnRef(reference)) => {
            let parts = name_parts(&reference.fields);
            let [alias, column] = parts.as_slice() else { return Ok(None) };
            let table = arm.from_clause.iter().find_map(|item| table_named(item, alias));
            let relation = table.and_then(|table| {
                relations.iter().find(|relation| relation.schema == table.schemaname && relation.name == table.relname)
            });
            let found = relation.and_then(|relation| relation.column(column)).filter(|column| !column.own_collation);
            found.map(|column| column.type_name.clone())
        }
        Some(NodeEnum::CoalesceExpr(first)) => {
            let types: Vec<Option<String>> =
                first.args.iter().map(|argument| type_of(argument, arm, relations)).collect::<Outcome<_>>()?;
            types
                .split_first()
                .filter(|(first, rest)| rest.iter().all(|other| other == *first))
                .and_then(|(first, _)| first.clone())
        }
        Some(NodeEnum::TypeCast(_)) => print_expression(value)?.rsplit_once("::").map(|(_, name)| name.to_owned()),
        Some(_) | None => None,
    })
}

fn table_named<'a>(item: &'a Node, alias: &str) -> Option<&'a RangeVar> {
    match &item.node {
        Some(NodeEnum::RangeVar(table)) => {
            let name = table.alias.as_ref().map_or(&table.relname, |alias| &alias.aliasname);
            (name == alias).then_some(table)
        }
        Some(NodeEnum::JoinExpr(join)) => {
            [&join.larg, &join.rarg].into_iter().flatten().find_map(|side| table_named(side, alias))
        }
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Combination, arms};
    use crate::syntax::parse_select;

    #[test]
    fn rows_count_as_the_standard_says() {
        let count = |sql: &str| match arms(parse_select(sql).unwrap()).unwrap() {
            (arms, Combination::Counted { count, once }) => {
                (arms.len(), count.replace("count(*) FILTER (WHERE c.arm = ", "n(").replace("))", ")"), once)
            }
            (arms, other) => (arms.len(), format!("{other:?}"), false),
        };
        assert_eq!(count("SELECT a FROM t UNION SELECT b FROM u UNION ALL SELECT c FROM v").0, 3);
        assert_eq!(count("SELECT a FROM t UNION ALL SELECT b FROM u").1, "All");
        assert_eq!(count("(SELECT a FROM t UNION ALL SELECT b FROM u) UNION SELECT c FROM v").1, "Distinct");
        let (arms, counted, once) = count("SELECT a FROM t EXCEPT ALL (SELECT b FROM u INTERSECT SELECT c FROM v)");
        assert_eq!((arms, once), (3, false));
        assert_eq!(counted, "greatest(0, n(1) - least(least(1, n(2), least(1, n(3))");
    }
}
