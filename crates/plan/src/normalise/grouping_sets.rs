//! Grouping sets become the union of their groupings.
//!
//! The rule: `γ[{g₁, …, gₙ}](R) = ⊎ i: γ[gᵢ](R)`, with the columns that a grouping leaves out NULL, and `grouping()` a constant of it. The
//! empty grouping has its row also where R is empty. An empty set given twice counts twice.

use pg_query::NodeEnum;
use pg_query::protobuf::{CoercionForm, GroupingSetKind, Node, SelectStmt, SetOperation};

use crate::model::facts::{Function, OutputColumn};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, children, clauses, parse_expression, print_expression};

/// More groupings than this are not worth their branches.
const GROUPINGS_MAX: usize = 32;

/// The SELECTs, combined by UNION ALL; `None` where there are no grouping sets.
pub(crate) fn written_out(select: &SelectStmt, columns: &[OutputColumn], functions: &[Function]) -> Outcome<Option<SelectStmt>> {
    let is_set = |node: &Node| matches!(&node.node, Some(NodeEnum::GroupingSet(_)));
    if !select.group_clause.iter().any(is_set) {
        return Ok(None);
    }
    if select.group_distinct || select.limit_count.is_some() || select.limit_offset.is_some() {
        return Err(Obstacle::new("it has grouping sets with DISTINCT or LIMIT")
            .instead("write the grouping sets in a subquery in FROM, and the rest outside of it"));
    }
    // These are over the rows of all groupings together.
    if !select.distinct_clause.is_empty() || syntax::has_window(select)? {
        return Err(Obstacle::new("it has DISTINCT or window functions over grouping sets")
            .instead("write the grouping sets in a subquery in FROM, and the rest outside of it"));
    }
    let mut groupings: Vec<Vec<Node>> = vec![Vec::new()];
    for item in &select.group_clause {
        let sets = sets(item)?;
        groupings = groupings.iter().flat_map(|before| sets.iter().map(move |set| [before.as_slice(), set].concat())).collect();
        if groupings.len() > GROUPINGS_MAX {
            return Err(Obstacle::new("it has too many grouping sets"));
        }
    }
    let all: Vec<String> = texts(groupings.iter().flatten())?;
    let mut arms = Vec::new();
    for grouping in groupings {
        arms.push(arm(select, &grouping, (&all, columns, functions))?);
    }
    Ok(arms.into_iter().reduce(|left, right| SelectStmt {
        op: SetOperation::SetopUnion as i32,
        all: true,
        larg: Some(Box::new(left)),
        rarg: Some(Box::new(right)),
        limit_option: pg_query::protobuf::LimitOption::Default as i32,
        ..SelectStmt::default()
    }))
}

/// The expressions that a GROUP BY clause groups by, those of its sets each once.
pub(crate) fn grouped_by(group_clause: &[Node]) -> Outcome<Vec<Node>> {
    let mut found: Vec<Node> = Vec::new();
    for item in group_clause {
        for node in sets(item)?.concat() {
            if !texts(found.iter())?.contains(&print_expression(&node)?) {
                found.push(node);
            }
        }
    }
    Ok(found)
}

fn texts<'a>(nodes: impl Iterator<Item = &'a Node>) -> Outcome<Vec<String>> {
    Ok(nodes.map(print_expression).collect::<Result<_, _>>()?)
}

/// The sets of columns that an item of GROUP BY stands for.
fn sets(item: &Node) -> Outcome<Vec<Vec<Node>>> {
    let Some(NodeEnum::GroupingSet(set)) = &item.node else { return Ok(vec![columns(item)]) };
    let content = || set.content.iter().map(columns).collect::<Vec<Vec<Node>>>();
    match GroupingSetKind::try_from(set.kind) {
        Ok(GroupingSetKind::GroupingSetEmpty) => Ok(vec![Vec::new()]),
        Ok(GroupingSetKind::GroupingSetSimple) => Ok(vec![content().concat()]),
        Ok(GroupingSetKind::GroupingSetRollup) => {
            let content = content();
            Ok((0..=content.len()).rev().map(|length| content[..length].concat()).collect())
        }
        Ok(GroupingSetKind::GroupingSetCube) => {
            let content = content();
            if content.len() > 5 {
                return Err(Obstacle::new("it has too many grouping sets"));
            }
            let chosen = |mask: usize| {
                let kept = content.iter().enumerate().filter(move |(n, _)| mask & (1 << n) != 0);
                kept.flat_map(|(_, columns)| columns.clone()).collect()
            };
            Ok((0..1_usize << content.len()).rev().map(chosen).collect())
        }
        Ok(GroupingSetKind::GroupingSetSets) => Ok(set.content.iter().map(sets).collect::<Outcome<Vec<_>>>()?.concat()),
        Ok(GroupingSetKind::Undefined) | Err(_) => Err(Obstacle::new("it has grouping sets of an unknown kind")),
    }
}

/// `(a, b)` is two columns; `ROW(a, b)` is one.
fn columns(item: &Node) -> Vec<Node> {
    match &item.node {
        Some(NodeEnum::RowExpr(row)) if row.row_format() == CoercionForm::CoerceImplicitCast => row.args.clone(),
        Some(NodeEnum::List(list)) => list.items.clone(),
        Some(_) | None => vec![item.clone()],
    }
}

/// One grouping.
fn arm(
    select: &SelectStmt,
    grouping: &[Node],
    (all, outputs, functions): (&[String], &[OutputColumn], &[Function]),
) -> Outcome<SelectStmt> {
    let mut group_clause: Vec<Node> = Vec::new();
    for node in grouping {
        if !group_clause.contains(node) {
            group_clause.push(node.clone());
        }
    }
    let within = texts(group_clause.iter())?;
    let mut arm = SelectStmt { group_clause: Vec::new(), sort_clause: Vec::new(), ..select.clone() };
    for (target, output) in arm.target_list.iter_mut().zip(outputs) {
        if let Some(NodeEnum::ResTarget(target)) = target.node.as_mut() {
            target.name.clone_from(&output.name);
            // A column that is left out has its own type.
            if let Some(value) = target.val.as_deref_mut()
                && let text = print_expression(value)?
                && all.contains(&text)
                && !within.contains(&text)
            {
                *value = parse_expression(&format!("NULL::{}", output.typed()))?;
            }
        }
    }
    // The rows are there before they are grouped.
    let condition = arm.where_clause.take();
    for clause in clauses(&mut arm) {
        left_out(clause, all, &within, functions)?;
    }
    arm.where_clause = condition;
    // Without a group clause it has to aggregate all the same.
    if group_clause.is_empty() && arm.having_clause.is_none() {
        arm.having_clause = Some(Box::new(parse_expression("true")?));
    }
    arm.group_clause = group_clause;
    Ok(arm)
}

/// Replaces what the grouping leaves out, and `grouping()`. Arguments of aggregates are of the rows, and stay.
fn left_out(node: &mut Node, all: &[String], within: &[String], functions: &[Function]) -> Outcome<()> {
    if node.node.is_none() {
        return Ok(());
    }
    if let Some(NodeEnum::GroupingFunc(grouping)) = &node.node {
        let mut bits = 0_u32;
        for text in texts(grouping.args.iter())? {
            bits = bits * 2 + u32::from(!within.contains(&text));
        }
        *node = parse_expression(&bits.to_string())?;
        return Ok(());
    }
    if syntax::is_aggregate_call(node, functions) {
        return Ok(());
    }
    if let Some(NodeEnum::SubLink(link)) = &node.node
        && let Some(NodeEnum::SelectStmt(inner)) = link.subselect.as_ref().and_then(|node| node.node.as_ref())
        && !syntax::is_self_contained(inner)?
    {
        return Err(Obstacle::new("a subquery beside grouping sets refers to columns that some of them leave out"));
    }
    let is_part = matches!(
        &node.node,
        Some(NodeEnum::ResTarget(_) | NodeEnum::CaseWhen(_) | NodeEnum::AIndices(_) | NodeEnum::List(_) | NodeEnum::SortBy(_))
    );
    if !is_part
        && let text = print_expression(node)?
        && all.contains(&text)
    {
        // What it is grouped by is whole, whatever else its parts may be.
        if !within.contains(&text) {
            *node = parse_expression(&format!("(array_agg({text}) FILTER (WHERE false))[1]"))?;
        }
        return Ok(());
    }
    children(node)?.into_iter().try_for_each(|child| left_out(child, all, within, functions))
}

#[cfg(test)]
mod tests {
    use super::written_out;
    use crate::model::facts::OutputColumn;
    use crate::syntax::{parse_select, print_select_pretty};

    fn columns(names: &[(&str, &str)]) -> Vec<OutputColumn> {
        let one = |(name, type_name): &(&str, &str)| OutputColumn {
            name: (*name).to_owned(),
            type_name: (*type_name).to_owned(),
            base_type: (*type_name).to_owned(),
            collation: None,
            hashable: true,
            comparable: true,
        };
        names.iter().map(one).collect()
    }

    #[test]
    fn each_grouping_is_a_select_of_its_own() {
        let select = parse_select(
            "SELECT t.a, t.b, count(*) AS n, GROUPING(t.a, t.b) AS level, COALESCE(t.a, 'all') AS label FROM t GROUP BY CUBE (t.a, t.b) HAVING count(*) > 1",
        )
        .unwrap();
        let columns = columns(&[("a", "text"), ("b", "integer"), ("n", "bigint"), ("level", "integer"), ("label", "text")]);
        let arms = written_out(&select, &columns, &[]).unwrap().unwrap();
        let printed = print_select_pretty(&arms).unwrap();
        let found: Vec<&str> = printed.split("UNION ALL").collect();
        assert_eq!(found.len(), 4, "{printed}");
        assert!(
            found[1].contains("NULL::text AS a") && found[1].contains("2 AS level") && found[1].contains("GROUP BY t.b"),
            "{printed}"
        );
        assert!(found[3].contains("3 AS level") && !found[3].contains("GROUP BY") && found[3].contains("HAVING"), "{printed}");
    }
}
