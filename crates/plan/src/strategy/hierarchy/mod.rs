//! Linear WITH RECURSIVE: hierarchies, bills of material, what is reachable.
//!
//! The rule: `t = A ⊎ S(t)`. Every row of t has an *owner*, the root row of the arm that made it, A or S. It is *below* the owner o of the row
//! that it was joined to, and that is seen from the two owners alone: `v(owner) = c(o)`, where c is a column of t that every arm computes
//! from its own root row. So a row of t depends on its owner and on what is above that, at any distance. When rows change, their owners
//! are dirty, and all below them: found by the values that they had and that they have, down to where nothing is below. What lies
//! between was not changed, or it is dirty itself; so old values are needed of changed rows only, as for links. The rows of dirty owners
//! are what the same recursion gives over the dirty owners and those above them; where owners stand in a circle, that ends by UNION, or
//! not at all, as the query itself.

mod form;
mod reach;
mod statements;

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeSubselect, SelectStmt};

use super::branches::Part;
use super::grouping::{self, Grouping};
use crate::model::facts::{Column, Identity, Query, Relation, RelationKind};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::{Branch, Maintenance};
use crate::model::row_key::RowKey;
use crate::normalise::Combination;
use crate::syntax::{column_reference, print_expression, print_select_pretty, target_expression, wrap};
use form::Recursion;
use reach::{Reach, own_value, reach, ties};
use statements::{Anchor, Statements, owner_column};

/// A plan's maintenance, its key, and the columns by which the rows of a root are found where the key is not the way.
pub(super) type Maintained = (Maintenance, RowKey, Vec<String>);

/// The maintenance of a recursion that the query filters and computes with; `None` if it reads none, or something beside it.
pub(super) fn maintained(query: &Query, select: &SelectStmt) -> Outcome<Option<Maintained>> {
    let Some(recursion) = Recursion::of(select, query)? else { return Ok(None) };
    let hierarchy = Hierarchy::new(query, &recursion)?;
    match hierarchy.owner()? {
        Some(owner) => hierarchy.by_owner(select, owner),
        None => hierarchy.by_contributions(),
    }
    .map(Some)
}

/// The arms of a recursion, and how the step is reached from them.
struct Hierarchy<'a> {
    query: &'a Query,
    recursion: &'a Recursion,
    /// The arms as they are.
    anchors: Vec<Part>,
    /// The anchors with what is made of their rows.
    made: Vec<Part>,
    step: Part,
    /// The relation that stands for the recursion's own rows, in the step.
    own: usize,
    anchor_reaches: Vec<Reach>,
    step_reach: Reach,
}

impl<'a> Hierarchy<'a> {
    fn new(query: &'a Query, recursion: &'a Recursion) -> Outcome<Self> {
        let part = |select: &SelectStmt| Part::new(select.clone(), query);
        let anchors = recursion.anchors.iter().map(part).collect::<Outcome<Vec<_>>>()?;
        let made =
            recursion.anchors.iter().map(|anchor| Part::new(over(recursion, anchor), query)).collect::<Outcome<Vec<_>>>()?;
        if anchors.iter().zip(&made).any(|(anchor, made)| anchor.paths.root != made.paths.root) {
            return Err(Obstacle::new("the rows that its recursive WITH starts from have no definite owner"));
        }
        let with_own = with_own_rows(query, recursion);
        let own = query.relations.len();
        let step = Part::new(recursion.step.clone(), &with_own)?;
        let (mut all, mut values) = (ties(&step, own, &recursion.columns), Vec::new());
        for arm in anchors.iter().chain([&step]) {
            let own = |column: usize| own_value(arm, column, query);
            values.push((0..recursion.columns.len()).map(own).collect::<Outcome<Vec<_>>>()?);
        }
        all.retain(|tie| values.iter().all(|values| values[tie.column()].is_some()));
        if all.is_empty() {
            return Err(Obstacle::new(
                "the step of its recursive WITH is not joined to its own rows by a column that each row's own table tells",
            )
            .instead("join it by a column that comes, in each arm, from the row that the arm adds"));
        }
        let reach_of = |number: usize, arm: &Part| {
            let values: Vec<Node> = all.iter().filter_map(|tie| values[number][tie.column()].clone()).collect();
            reach((&step, arm), &all, &values, query, &format!("{}_below{}", query.projection, number + 1))
        };
        let anchor_reaches =
            anchors.iter().enumerate().map(|(number, arm)| reach_of(number, arm)).collect::<Outcome<Vec<_>>>()?;
        let step_reach = reach_of(anchors.len(), &step)?;
        Ok(Self { query, recursion, anchors, made, step, own, anchor_reaches, step_reach })
    }

    /// The result's columns that are the owner's key, where the arms have one table and one key, and all owners' rows can be found by it.
    fn owner(&self) -> Outcome<Option<Vec<String>>> {
        let ([made], step) = (self.made.as_slice(), &self.step) else { return Ok(None) };
        let same = made.root(self.query).relation == step.root(self.query).relation;
        if !same || made.key_outputs.is_empty() || step.key_outputs.is_empty() {
            return Ok(None);
        }
        for (output, column) in made.key_outputs.iter().zip(&step.key_outputs) {
            let wanted = column_reference(&self.recursion.alias, &self.name_in_main(*column));
            let value = self.recursion.main.target_list.get(*output).and_then(target_expression);
            let found = value.map(print_expression).transpose()?;
            if found != Some(print_expression(&wanted)?) {
                return Ok(None);
            }
        }
        Ok(Some(made.key_outputs.iter().map(|&output| self.query.columns[output].name.clone()).collect()))
    }

    /// Whether every column of the recursion is one of the result's.
    fn shows_all_columns(&self) -> Outcome<bool> {
        let outputs = grouping::outputs(&self.recursion.main)?;
        for column in 0..self.recursion.columns.len() {
            let name = self.name_in_main(column);
            if !outputs.contains(&print_expression(&column_reference(&self.recursion.alias, &name))?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What a column of the recursion is called in what is made of it.
    fn name_in_main(&self, column: usize) -> String {
        let renamed = self.recursion.main.from_clause.first().and_then(|item| match &item.node {
            Some(NodeEnum::RangeVar(table)) => table.alias.as_ref()?.colnames.get(column).and_then(crate::syntax::string_of),
            Some(_) | None => None,
        });
        renamed.map_or_else(|| self.recursion.columns[column].clone(), str::to_owned)
    }

    fn statements(&self, anchors_owned: bool) -> Statements<'_> {
        let covered = |reach: &Reach| anchors_owned && reach.is_like(&self.step_reach);
        let anchors = self.anchors.iter().zip(&self.anchor_reaches);
        Statements {
            query: self.query,
            recursion: self.recursion,
            anchors: anchors.map(|(part, reach)| Anchor { part, reach: Some(reach).filter(|reach| !covered(reach)) }).collect(),
            step: &self.step,
            step_reach: &self.step_reach,
            anchors_owned,
        }
    }

    /// One branch: the rows of an owner are found by its key, which the result has.
    fn by_owner(&self, select: &SelectStmt, owner: Vec<String>) -> Outcome<Maintained> {
        let statements = self.statements(true);
        let root = self.step.root(self.query);
        let mut roles = self.made[0].roles(self.query, 0)?;
        roles.extend(self.step_roles(1)?);
        let reaches = self.anchor_reaches.iter().filter(|reach| !reach.is_like(&self.step_reach)).chain([&self.step_reach]);
        roles.extend(reaches.map(|reach| reach.role(&root, 0)));
        let branch = Branch {
            query: print_select_pretty(&SelectStmt { sort_clause: Vec::new(), ..select.clone() })?,
            page_query: None,
            dirty_query: statements.restricted(&self.recursion.main)?,
            roles,
            clocks: Vec::new(),
            contributions: None,
            fans_out: true,
            root,
        };
        let (key, owner) = match &self.query.declared_key {
            Some(declared) => (RowKey::Located(declared.clone()), owner),
            None => (RowKey::Copies { within: owner }, Vec::new()),
        };
        Ok((Maintenance::Row(Box::new(branch)), key, owner))
    }

    /// A branch for each anchor, and one for the step.
    fn by_contributions(&self) -> Outcome<Maintained> {
        // UNION makes the recursion's rows distinct, not what is made of them.
        if self.recursion.distinct && !self.shows_all_columns()? {
            return Err(Obstacle::new("it takes some columns of a recursive WITH whose rows are made distinct by UNION"));
        }
        let combination = if self.recursion.distinct { Combination::Distinct } else { Combination::All };
        let first = &self.made[0];
        let grouping = grouping::by_all_columns(first, self.query, &combination)?;
        let mut branches = Vec::new();
        for (number, made) in self.made.iter().enumerate() {
            let grouping = grouping::by_all_columns(made, self.query, &combination)?;
            branches.push(grouping::branch(self.query, made, &grouping, number, true)?);
        }
        branches.push(self.step_branch(branches.len())?);
        let all = self.query.columns.iter().map(|column| column.name.clone()).collect();
        let (plan, key) = grouping::of_branches(&grouping, branches, all, false);
        Ok((Maintenance::Grouped(Box::new(plan)), key, Vec::new()))
    }

    fn step_branch(&self, number: usize) -> Outcome<Branch> {
        let root = self.step.root(self.query);
        let statements = self.statements(false);
        let outputs = grouping::outputs(&self.recursion.main)?;
        let grouping = Grouping { groups: outputs, ..grouping::by_all_columns(&self.made[0], self.query, &Combination::All)? };
        let keys = (1..=root.key.len()).map(|n| column_reference(&self.recursion.alias, &owner_column(n))).collect();
        let mut main = self.recursion.main.clone();
        main.target_list = grouping::contribution(self.query, &grouping, keys, true)?;
        let mut roles = self.step_roles(number)?;
        for (branch, (reach, anchor)) in self.anchor_reaches.iter().zip(&self.anchors).enumerate() {
            roles.push(reach.role(&anchor.root(self.query), branch));
        }
        roles.push(self.step_reach.role(&root, number));
        let mut branch = Branch {
            query: statements.unrestricted(&main)?,
            page_query: None,
            dirty_query: statements.restricted(&main)?,
            roles,
            clocks: Vec::new(),
            contributions: None,
            fans_out: true,
            root,
        };
        branch.contributions = Some(grouping::contributions(self.query, &grouping, &branch, number));
        Ok(branch)
    }

    /// The roles of the step's tables; its own rows are no table.
    fn step_roles(&self, number: usize) -> Outcome<Vec<crate::model::trace::RelationRole>> {
        let with_own = with_own_rows(self.query, self.recursion);
        let roles = self.step.roles(&with_own, number)?;
        Ok(roles.into_iter().filter(|role| role.relation != self.own).collect())
    }
}

/// What is made of a recursion's rows, over those of one anchor.
fn over(recursion: &Recursion, anchor: &SelectStmt) -> SelectStmt {
    let mut select = recursion.main.clone();
    let alias = match select.from_clause.first().map(|item| &item.node) {
        Some(Some(NodeEnum::RangeVar(table))) => table.alias.clone(),
        Some(Some(_) | None) | None => None,
    };
    let mut names: Vec<Node> = recursion.columns.iter().map(|name| crate::syntax::string(name)).collect();
    let alias = alias.map(|mut alias| {
        names.splice(..alias.colnames.len().min(names.len()), alias.colnames.drain(..));
        alias.colnames = names;
        alias
    });
    let subquery = Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(anchor.clone())))));
    select.from_clause = vec![wrap(NodeEnum::RangeSubselect(Box::new(RangeSubselect { lateral: false, subquery, alias })))];
    select
}

/// The query with one more relation: the recursion's own rows, which tie nothing by themselves.
fn with_own_rows(query: &Query, recursion: &Recursion) -> Query {
    let column = |name: &String| Column { name: name.clone(), type_name: String::new(), not_null: false, own_collation: false };
    let mut with_own = query.clone();
    with_own.relations.push(Relation {
        oid: 0,
        schema: String::new(),
        name: recursion.name.clone(),
        kind: RelationKind::Table,
        columns: recursion.columns.iter().map(column).collect(),
        identity: Identity::FullRow { because: None },
        located_by: Vec::new(),
        single_row: true,
        children: Vec::new(),
        indexes: Vec::new(),
        orders: Vec::new(),
        searchable: Vec::new(),
    });
    with_own
}
