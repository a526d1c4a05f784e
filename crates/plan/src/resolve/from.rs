//! FROM items.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, JoinExpr, JoinType, Node, RangeFunction, RangeSubselect, RangeVar, SelectStmt};

use super::opaque;
use super::scope::{Context, Derived, Name, Occurrence, Place, Resolver, Rows, Side, Source, see_through};
use crate::model::facts::{Relation, RelationKind};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::quote;
use crate::syntax::{self, string_of};

impl Resolver<'_> {
    pub(super) fn item(&mut self, item: &mut Node, place: Place, nullable: bool) -> Outcome<Side> {
        match item.node.as_mut() {
            Some(NodeEnum::RangeVar(table)) => self.table(table, place, nullable),
            Some(NodeEnum::JoinExpr(join)) => self.join(join, place, nullable),
            Some(NodeEnum::RangeSubselect(subselect)) => self.derived_table(subselect, place, nullable),
            Some(NodeEnum::RangeFunction(function)) => self.function(function, place, nullable),
            Some(NodeEnum::RangeTableSample(sample)) => Err(Obstacle::at("it samples a table", sample.location)),
            Some(_) | None => Err(Obstacle::new("its FROM clause has a construct that is not known")),
        }
    }

    fn table(&mut self, table: &mut RangeVar, place: Place, nullable: bool) -> Outcome<Side> {
        let known = |relation: &Relation| relation.schema == table.schemaname && relation.name == table.relname;
        let Some(relation) = self.relations.iter().position(known) else {
            let name = if table.schemaname.is_empty() {
                table.relname.clone()
            } else {
                format!("{}.{}", table.schemaname, table.relname)
            };
            return Err(Obstacle::at(format!("it reads {name}, which is not a table"), table.location));
        };
        let label = self.relations[relation].label();
        let parent = &self.relations[relation];
        let same_key =
            |child: &&Relation| parent.children.contains(&child.oid) && child.identity_columns() != parent.identity_columns();
        if parent.kind == RelationKind::InheritanceParent
            && let Some(child) = self.relations.iter().find(same_key)
        {
            let reason = format!("{label} has the inheritance child {}, whose key is another one", child.label());
            return Err(Obstacle::at(reason, table.location));
        }
        if !table.inh {
            return Err(Obstacle::at(format!("it reads ONLY {label}"), table.location));
        }
        let written = match &table.alias {
            Some(alias) if !alias.colnames.is_empty() => {
                return Err(Obstacle::at(format!("the alias {} renames columns", alias.aliasname), table.location)
                    .instead("rename them in the select list, with AS"));
            }
            Some(alias) => alias.aliasname.clone(),
            None => table.relname.clone(),
        };
        let alias = self.unique(&written);
        if alias != table.relname {
            table.alias = Some(Alias { aliasname: alias.clone(), colnames: Vec::new() });
        }
        Ok(self.add_occurrence(written, Occurrence::new(alias, Source::Table(relation), place, nullable, table.location)))
    }

    fn function(&mut self, function: &mut RangeFunction, place: Place, nullable: bool) -> Outcome<Side> {
        let mut depends_on = BTreeSet::new();
        for call in &mut function.functions {
            // Each is a list: the call, and column definitions that hold no expressions.
            let Some(NodeEnum::List(list)) = call.node.as_mut() else {
                return Err(Obstacle::new("a function in FROM has a form that is not known"));
            };
            let Some(call) = list.items.first_mut() else { continue };
            self.expression(call, Context::Value)?;
            let seen = see_through(call, &self.names, &self.derived);
            depends_on.extend(self.references(seen.as_ref().unwrap_or(call))?);
        }
        let Some(alias) = &mut function.alias else {
            return Err(Obstacle::new("a function in FROM has no alias"));
        };
        let written = alias.aliasname.clone();
        let unique = self.unique(&written);
        alias.aliasname.clone_from(&unique);
        let source = Source::Function(Box::new(function.clone()), depends_on);
        Ok(self.add_occurrence(written, Occurrence::new(unique, source, place, nullable, -1)))
    }

    fn derived_table(&mut self, subselect: &mut RangeSubselect, place: Place, nullable: bool) -> Outcome<Side> {
        let Some(NodeEnum::SelectStmt(select)) = subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) else {
            return Err(Obstacle::new("a subquery in FROM is not a SELECT"));
        };
        let index = self.derived.len();
        let is_opaque = opaque::is_opaque(select, self.functions)?;
        self.derived.push(Derived { alias: String::new(), columns: Vec::new(), rows: None, place, used_as_row: false });
        let inner_place = if place == Place::Row && is_opaque { Place::Inside(index) } else { place };
        let side = self.subselect(select, inner_place, nullable)?;
        let columns = opaque::columns(select, self.functions)?;
        let rows = if is_opaque { Some(self.rows(select)?) } else { None };
        let Some(alias) = &mut subselect.alias else { return Err(Obstacle::new("a subquery in FROM has no alias")) };
        let given = alias.colnames.iter().map(|name| string_of(name).unwrap_or_default().to_owned());
        let names: Vec<String> = given.chain(columns.iter().skip(alias.colnames.len()).map(|(name, _)| name.clone())).collect();
        let columns = names
            .into_iter()
            .zip(columns)
            .map(|(name, (_, seen))| {
                let seen = seen.and_then(|node| see_through(&node, &self.names, &self.derived));
                (name, seen)
            })
            .collect();
        let written = alias.aliasname.clone();
        let unique = self.unique(&written);
        alias.aliasname.clone_from(&unique);
        self.derived[index] = Derived { alias: unique.clone(), columns, rows, place, used_as_row: false };
        self.add_name(written, unique, Name::Derived(index));
        Ok(side)
    }

    fn rows(&self, select: &SelectStmt) -> Outcome<Rows> {
        Ok(match opaque::rows(select, self.functions)? {
            Rows::PerGroup(groups) => {
                let through = |node: &Node| see_through(node, &self.names, &self.derived);
                groups.iter().map(through).collect::<Option<_>>().map_or(Rows::Many, Rows::PerGroup)
            }
            rows => rows,
        })
    }

    fn join(&mut self, join: &mut JoinExpr, place: Place, nullable: bool) -> Outcome<Side> {
        if join.alias.is_some() || join.join_using_alias.is_some() {
            return Err(Obstacle::new("a join has an alias"));
        }
        let kind = JoinType::try_from(join.jointype).unwrap_or(JoinType::Undefined);
        let (left_nullable, right_nullable) = match kind {
            JoinType::JoinInner => (nullable, nullable),
            JoinType::JoinLeft => (nullable, true),
            JoinType::JoinRight => (true, nullable),
            JoinType::JoinFull => {
                return Err(Obstacle::new("it has a full outer join below another join or inside a subquery")
                    .instead("make the full join a projection of its own, and read that"));
            }
            _ => return Err(Obstacle::new("it has a join of an unknown kind")),
        };
        let (Some(left_item), Some(right_item)) = (&mut join.larg, &mut join.rarg) else {
            return Err(Obstacle::new("a join lacks a side"));
        };
        let left = self.item(left_item, place, left_nullable)?;
        let right = self.item(right_item, place, right_nullable)?;
        if !join.using_clause.is_empty() {
            self.using_to_on(join, kind, &left, &right)?;
        }
        // A row of the preserved side is there whether or not the condition holds, so the condition says nothing about it.
        let constrained: BTreeSet<usize> = match kind {
            JoinType::JoinLeft => right.all.clone(),
            JoinType::JoinRight => left.all.clone(),
            _ => left.all.union(&right.all).copied().collect(),
        };
        if let Some(condition) = &mut join.quals {
            self.extended.push(left.nullable.union(&right.nullable).copied().collect());
            let context = if kind == JoinType::JoinInner && !nullable { Context::Filter } else { Context::Value };
            self.expression(condition, context)?;
            if syntax::is_false(condition) {
                for &index in &constrained {
                    self.occurrences[index].inert = true;
                }
            }
            self.collect(condition, &constrained)?;
            self.narrow(condition)?;
            self.extended.pop();
        }
        let extended = match kind {
            JoinType::JoinLeft => right.all.clone(),
            JoinType::JoinRight => left.all.clone(),
            _ => BTreeSet::new(),
        };
        let mut both = left.plus(&right);
        both.nullable.extend(extended);
        Ok(both)
    }

    /// Writes USING (c) as ON left.c = right.c. Of several left columns of that name, all but the first were merged into it by
    /// earlier USING clauses, or PostgreSQL would have called the name ambiguous.
    fn using_to_on(&mut self, join: &mut JoinExpr, kind: JoinType, left: &Side, right: &Side) -> Outcome<()> {
        if kind == JoinType::JoinRight {
            let location = right.all.first().map_or(-1, |&index| self.occurrences[index].location);
            return Err(Obstacle::at("it has a right join with USING", location)
                .instead("write it as a left join, with its sides exchanged, or the condition with ON"));
        }
        for column in std::mem::take(&mut join.using_clause) {
            let name = string_of(&column).unwrap_or_default();
            let owner = |side: &Side| {
                let has_column = |index: &&usize| match &self.occurrences[**index].source {
                    Source::Table(relation) => self.relations[*relation].column(name).is_some(),
                    Source::Function(..) => false,
                };
                let mut owners = side.all.iter().filter(has_column);
                // Tables inside subqueries are not in sight here, so their names would not do.
                owners.find(|&&index| self.in_sight(index)).map(|&index| self.occurrences[index].alias.clone())
            };
            let (Some(left), Some(right)) = (owner(left), owner(right)) else {
                return Err(Obstacle::new(format!("the column {name} of USING cannot be attributed to a table")));
            };
            let equal = syntax::parse_expression(&format!(
                "{}.{name} = {}.{name}",
                quote::identifier(&left),
                quote::identifier(&right),
                name = quote::identifier(name)
            ))?;
            join.quals = Some(syntax::and(join.quals.take(), equal));
            self.added_references += 2;
        }
        Ok(())
    }

    fn in_sight(&self, occurrence: usize) -> bool {
        self.scopes.last().is_some_and(|scope| scope.iter().any(|(_, name)| *name == Name::Occurrence(occurrence)))
    }

    fn add_occurrence(&mut self, written: String, occurrence: Occurrence) -> Side {
        let index = self.occurrences.len();
        self.add_name(written, occurrence.alias.clone(), Name::Occurrence(index));
        self.occurrences.push(occurrence);
        Side { all: BTreeSet::from([index]), nullable: BTreeSet::new() }
    }

    fn add_name(&mut self, written: String, alias: String, name: Name) {
        self.names.insert(alias, name);
        if let Some(scope) = self.scopes.last_mut() {
            scope.push((written, name));
        }
    }

    /// The alias, with a number if it is used already. `dirty` and its like are names in our own statements.
    fn unique(&self, written: &str) -> String {
        let taken = |alias: &str| self.names.contains_key(alias) || ["dirty", "fresh", "d"].contains(&alias);
        if !taken(written) {
            return written.to_owned();
        }
        let mut number = 2;
        loop {
            let alias = format!("{written}_{number}");
            if !taken(&alias) {
                return alias;
            }
            number += 1;
        }
    }
}
