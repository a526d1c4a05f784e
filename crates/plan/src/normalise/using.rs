//! USING of full joins becomes ON.
//!
//! The rule: the columns of `l FULL JOIN r USING (a)` are those of `l FULL JOIN r ON l.a = r.a`, and `a` is `coalesce(l.a, r.a)`. Of an inner
//! or left join it is `l.a`, of a right join `r.a`.

use pg_query::NodeEnum;
use pg_query::protobuf::{CoalesceExpr, JoinExpr, JoinType, Node, SelectStmt};

use crate::model::facts::Relation;
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{
    self, After, children, clauses, column_reference, for_each_reference, for_each_subquery, string_of, target_expression, wrap,
};

/// Rewrites the FROM clause, and what refers to its merged columns, if it has a full join with USING.
pub(crate) fn without_using(mut select: SelectStmt, relations: &[Relation]) -> Outcome<SelectStmt> {
    let mut merged = Vec::new();
    for item in &select.from_clause {
        full_joins(item, &mut merged);
    }
    if merged.is_empty() {
        return Ok(select);
    }
    if select.from_clause.iter().any(has_alias) {
        return Err(Obstacle::new("a join with USING has a name of its own"));
    }
    let mut replacements = Vec::new();
    for name in merged {
        let found = select.from_clause.iter().find_map(|item| column(item, &name, relations));
        let value = found.ok_or_else(|| Obstacle::new(format!("the column {name} of a full join with USING was not found")))?;
        replacements.push((name, value));
    }
    for item in &mut select.from_clause {
        convert(item, relations)?;
    }
    for target in &mut select.target_list {
        let name = target_expression(target).and_then(unqualified).map(str::to_owned);
        if let (Some(name), Some(NodeEnum::ResTarget(target))) = (name, target.node.as_mut())
            && target.name.is_empty()
        {
            target.name = name;
        }
    }
    for clause in clauses(&mut select) {
        replace(clause, &replacements)?;
    }
    Ok(select)
}

/// The columns that full joins merge.
fn full_joins(item: &Node, found: &mut Vec<String>) {
    let Some(NodeEnum::JoinExpr(join)) = &item.node else { return };
    if join.jointype == JoinType::JoinFull as i32 {
        found.extend(join.using_clause.iter().filter_map(string_of).map(str::to_owned));
    }
    for side in [&join.larg, &join.rarg].into_iter().flatten() {
        full_joins(side, found);
    }
}

/// Whether a join has a name, by which a merged column may be meant that ON would show twice.
fn has_alias(item: &Node) -> bool {
    let Some(NodeEnum::JoinExpr(join)) = &item.node else { return false };
    let sides = [&join.larg, &join.rarg];
    join.alias.is_some() || join.join_using_alias.is_some() || sides.into_iter().flatten().any(|side| has_alias(side))
}

/// What a column that a FROM item shows stands for.
fn column(item: &Node, name: &str, relations: &[Relation]) -> Option<Node> {
    match &item.node {
        Some(NodeEnum::RangeVar(table)) => {
            let alias = table.alias.as_ref();
            let relation = relations
                .iter()
                .find(|found| found.name == table.relname && (table.schemaname.is_empty() || found.schema == table.schemaname))?;
            let renamed: Vec<&str> = alias.iter().flat_map(|alias| &alias.colnames).filter_map(string_of).collect();
            let position = |(n, column): (usize, &crate::model::facts::Column)| {
                renamed.get(n).map_or(column.name == name, |renamed| *renamed == name)
            };
            let known = relation.columns.iter().enumerate().any(position);
            let alias = alias.map_or(table.relname.as_str(), |alias| alias.aliasname.as_str());
            known.then(|| column_reference(alias, name))
        }
        Some(NodeEnum::RangeSubselect(subselect)) => {
            let alias = subselect.alias.as_ref()?;
            let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_ref().and_then(|node| node.node.as_ref()) else {
                return None;
            };
            let shown = |(n, target): (usize, &Node)| {
                let renamed = alias.colnames.get(n).and_then(string_of);
                let own = match &target.node {
                    Some(NodeEnum::ResTarget(target)) if !target.name.is_empty() => Some(target.name.clone()),
                    Some(_) | None => target_expression(target).and_then(last_name),
                };
                renamed.map(str::to_owned).or(own).as_deref() == Some(name)
            };
            inner.target_list.iter().enumerate().any(shown).then(|| column_reference(&alias.aliasname, name))
        }
        Some(NodeEnum::JoinExpr(join)) => {
            let left = join.larg.as_deref().and_then(|side| column(side, name, relations));
            let right = join.rarg.as_deref().and_then(|side| column(side, name, relations));
            if !join.using_clause.iter().filter_map(string_of).any(|merged| merged == name) {
                return left.or(right);
            }
            match JoinType::try_from(join.jointype) {
                Ok(JoinType::JoinFull) => {
                    let args = vec![left?, right?];
                    Some(wrap(NodeEnum::CoalesceExpr(Box::new(CoalesceExpr { args, ..CoalesceExpr::default() }))))
                }
                Ok(JoinType::JoinRight) => right,
                // Of inner and left joins; there are no others in FROM.
                Ok(_) | Err(_) => left,
            }
        }
        Some(_) | None => None,
    }
}

fn last_name(value: &Node) -> Option<String> {
    match &value.node {
        Some(NodeEnum::ColumnRef(reference)) => reference.fields.last().and_then(string_of).map(str::to_owned),
        Some(_) | None => None,
    }
}

/// `USING (a)` becomes `ON l.a = r.a`, from the outside in: what is inside tells what `a` is.
fn convert(item: &mut Node, relations: &[Relation]) -> Outcome<()> {
    let Some(NodeEnum::JoinExpr(join)) = item.node.as_mut() else { return Ok(()) };
    let JoinExpr { larg, rarg, using_clause, quals, is_natural, .. } = &mut **join;
    let (Some(left), Some(right)) = (larg.as_deref_mut(), rarg.as_deref_mut()) else { return Ok(()) };
    for name in using_clause.iter().filter_map(string_of) {
        let sides = column(left, name, relations).zip(column(right, name, relations));
        let (of_left, of_right) = sides.ok_or_else(|| Obstacle::new(format!("the column {name} of USING was not found")))?;
        let text = format!("{} = {}", syntax::print_expression(&of_left)?, syntax::print_expression(&of_right)?);
        let condition = syntax::parse_expression(&text)?;
        *quals = Some(syntax::and(quals.take(), condition));
    }
    using_clause.clear();
    *is_natural = false;
    convert(left, relations)?;
    convert(right, relations)
}

fn unqualified(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::ColumnRef(reference)) if reference.fields.len() == 1 => reference.fields.first().and_then(string_of),
        Some(_) | None => None,
    }
}

/// Replaces references to merged columns, which are printed without a table.
fn replace(node: &mut Node, replacements: &[(String, Node)]) -> Outcome<()> {
    if let Some(name) = unqualified(node) {
        if let Some((_, value)) = replacements.iter().find(|(merged, _)| merged == name) {
            *node = value.clone();
        }
        return Ok(());
    }
    let mut inside = false;
    for_each_subquery(node, &mut |inner| {
        let is_merged = |first: &str| replacements.iter().any(|(name, _)| name == first);
        for_each_reference(inner, &mut |first, after| inside |= after == After::Nothing && is_merged(first))
    })?;
    if inside {
        return Err(Obstacle::new("a subquery may refer to the columns of a full join with USING"));
    }
    children(node)?.into_iter().try_for_each(|child| replace(child, replacements))
}
