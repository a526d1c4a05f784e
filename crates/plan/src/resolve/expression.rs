//! Expressions: references qualified, subqueries entered, columns of subqueries seen through.

use std::collections::{BTreeMap, BTreeSet};

use pg_query::NodeEnum;
use pg_query::protobuf::{BoolExprType, ColumnRef, Node, SubLink, SubLinkType};

use super::opaque::separating_outputs;
use super::scope::{Context, Name, Place, Resolver, Source};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{children, name_parts, string_of, wrap};

impl Resolver<'_> {
    /// Qualifies the references of an expression and enters its subqueries.
    pub(super) fn expression(&mut self, node: &mut Node, context: Context) -> Outcome<()> {
        if let Some(resolved) = self.clock_comparison(node) {
            return resolved;
        }
        self.meet_clock(node)?;
        let inner = match &node.node {
            Some(NodeEnum::BoolExpr(expression)) if expression.boolop != BoolExprType::NotExpr as i32 => context,
            _ => Context::Value,
        };
        match node.node.as_mut() {
            Some(NodeEnum::ColumnRef(reference)) => {
                self.met.references += 1;
                return self.qualify(reference);
            }
            Some(NodeEnum::FuncCall(_)) => self.met.calls += 1,
            Some(NodeEnum::SubLink(link)) => {
                self.met.subqueries += 1;
                return self.subquery(link, context);
            }
            Some(_) | None => {}
        }
        for child in children(node)? {
            self.expression(child, inner)?;
        }
        Ok(())
    }

    fn qualify(&mut self, reference: &mut ColumnRef) -> Outcome<()> {
        let (alias, column) = match reference.fields.as_slice() {
            [column] => (None, column.clone()),
            [alias, column] => (string_of(alias).map(str::to_owned), column.clone()),
            _ => return Err(Obstacle::at("a column reference has an unusual form", reference.location)),
        };
        let column_name = string_of(&column).map(str::to_owned);
        let mut found = None;
        for scope in self.scopes.iter().rev() {
            let fits = |(written, name): &&(String, Name)| {
                let named = alias.as_ref().map_or(column_name.is_some(), |alias| alias == written);
                named && column_name.as_ref().is_none_or(|column| self.has_column(*name, column, alias.is_some()))
            };
            let candidates: Vec<Name> = scope.iter().filter(fits).map(|(_, name)| *name).collect();
            match candidates.as_slice() {
                [] => {}
                [name] => {
                    found = Some(*name);
                    break;
                }
                _ => break,
            }
        }
        let Some(name) = found else {
            let parts = name_parts(&reference.fields).join(".");
            return Err(Obstacle::at(format!("the reference {parts} cannot be attributed to one table"), reference.location));
        };
        if column_name.is_none()
            && let Name::Derived(index) = name
        {
            self.derived[index].used_as_row = true;
        }
        let alias = match name {
            Name::Occurrence(index) => self.occurrences[index].alias.clone(),
            Name::Derived(index) => self.derived[index].alias.clone(),
        };
        let alias = wrap(NodeEnum::String(pg_query::protobuf::String { sval: alias }));
        reference.fields = vec![alias, column];
        Ok(())
    }

    fn has_column(&self, name: Name, column: &str, by_alias: bool) -> bool {
        match name {
            Name::Occurrence(index) => match &self.occurrences[index].source {
                Source::Table(relation) => self.relations[*relation].column(column).is_some(),
                // What a function returns is not known here; a name that is given must be one of the given ones.
                Source::Function(function, _) => {
                    let names: Vec<&str> =
                        function.alias.iter().flat_map(|alias| &alias.colnames).filter_map(string_of).collect();
                    by_alias || names.is_empty() || names.contains(&column)
                }
            },
            Name::Derived(index) => self.derived[index].columns.iter().any(|(name, _)| name == column),
        }
    }

    fn subquery(&mut self, link: &mut SubLink, context: Context) -> Outcome<()> {
        if let Some(test) = &mut link.testexpr {
            self.expression(test, Context::Value)?;
        }
        let test = link.testexpr.as_deref().cloned();
        let membership = match (link.sub_link_type(), name_parts(&link.oper_name).as_slice()) {
            (SubLinkType::AnySublink, [] | ["="]) => Some(context),
            // NOT IN.
            (SubLinkType::AllSublink, ["<>"]) => Some(Context::Value),
            _ => None,
        };
        let Some(NodeEnum::SelectStmt(select)) = link.subselect.as_mut().and_then(|node| node.node.as_mut()) else {
            return Err(Obstacle::at("a subquery is not a SELECT", link.location));
        };
        let side = self.subselect(select, Place::Subquery, false)?;
        let (Some(test), Some(context)) = (test, membership) else { return Ok(()) };
        let separating = separating_outputs(select, self.functions)?;
        self.membership(&test, select, &separating, &side, context)
    }

    /// The occurrences that an expression refers to; an error where it refers to a column that cannot be seen through.
    pub(super) fn references(&self, node: &Node) -> Outcome<BTreeSet<usize>> {
        let mut found = BTreeSet::new();
        let mut copy = node.clone();
        collect_references(&mut copy, &self.names, &mut found)?;
        Ok(found)
    }
}

fn collect_references(node: &mut Node, names: &BTreeMap<String, Name>, found: &mut BTreeSet<usize>) -> Outcome<()> {
    if let Some(NodeEnum::ColumnRef(reference)) = &node.node {
        let alias = reference.fields.first().and_then(string_of).unwrap_or_default();
        match names.get(alias) {
            Some(Name::Occurrence(index)) => {
                found.insert(*index);
            }
            Some(Name::Derived(_)) | None => return Err(Obstacle::new(format!("{alias} cannot be seen through"))),
        }
    }
    children(node)?.into_iter().try_for_each(|child| collect_references(child, names, found))
}
