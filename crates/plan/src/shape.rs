//! The shape of a query: which tables it reads where, and which equalities tie them together.
//!
//! Every reference to a column is resolved to an *occurrence* of a relation (a table in FROM; a self-join has two) and
//! qualified with its alias, so that the pieces of the query can be put into other queries. What does not fit — a window, a
//! set operation, a subquery in FROM — is an [`Obstacle`], and the projection is maintained as a whole.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExprKind, BoolExprType, ColumnRef, JoinExpr, JoinType, Node, RangeVar, SelectStmt, SetOperation, SubLink, SubLinkType,
};

use crate::facts::{Relation, RelationKind};
use crate::quote;
use crate::syntax::{self, children, conjuncts, name_parts, print_expression, string_of};

/// Why a query cannot be maintained incrementally, in words that follow "because".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle(pub(crate) String);

impl From<String> for Obstacle {
    fn from(text: String) -> Self {
        Self(text)
    }
}

pub(crate) type Outcome<T> = Result<T, Obstacle>;

/// A table in FROM.
#[derive(Debug, Clone)]
pub(crate) struct Occurrence {
    /// The name that references use.
    pub(crate) alias: String,
    /// Index into the facts' relations.
    pub(crate) relation: usize,
    /// Whether an outer join can replace its row by NULLs.
    pub(crate) nullable: bool,
    /// Whether it stands in the outermost FROM.
    pub(crate) outermost: bool,
}

/// `occurrence.column = value`, in a place where rows that do not satisfy it do not matter.
#[derive(Debug, Clone)]
pub(crate) struct Equality {
    pub(crate) occurrence: usize,
    pub(crate) column: String,
    /// The type that the column is cast to in the comparison (`(x.code)::text = …`), if any.
    pub(crate) cast: Option<String>,
    /// The other side, printed.
    pub(crate) value: String,
    /// The plain column that the other side is, where it is one.
    pub(crate) value_column: Option<(usize, String)>,
    /// The occurrences that the other side refers to.
    pub(crate) depends_on: BTreeSet<usize>,
}

/// A query whose names are resolved.
pub(crate) struct Shape {
    pub(crate) select: SelectStmt,
    pub(crate) occurrences: Vec<Occurrence>,
    pub(crate) equalities: Vec<Equality>,
}

/// Resolves a SELECT.
pub(crate) fn analyse(mut select: SelectStmt, relations: &[Relation]) -> Outcome<Shape> {
    let mut resolver = Resolver { relations, occurrences: Vec::new(), equalities: Vec::new(), scopes: Vec::new() };
    resolver.select(&mut select)?;
    Ok(Shape { select, occurrences: resolver.occurrences, equalities: resolver.equalities })
}

struct Resolver<'a> {
    relations: &'a [Relation],
    occurrences: Vec<Occurrence>,
    equalities: Vec<Equality>,
    /// The occurrences visible at each level of nesting, innermost last.
    scopes: Vec<Vec<usize>>,
}

/// Whether a NULL answer of a condition counts as "no" all the way up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    /// Under ANDs and ORs of a WHERE: NULL and false are the same.
    Filter,
    /// Anywhere else: NULL and false differ.
    Value,
}

impl Resolver<'_> {
    fn select(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        refuse_unsupported(select)?;
        self.scopes.push(Vec::new());
        let outermost = self.scopes.len() == 1;
        for item in &mut select.from_clause {
            self.add_from_item(item, false, outermost)?;
        }
        for clause in [&mut select.target_list, &mut select.group_clause, &mut select.distinct_clause] {
            for node in clause {
                self.expression(node, Context::Value)?;
            }
        }
        // The order of the result is of no consequence unless LIMIT makes it one, and that is refused at the top.
        if !outermost {
            for node in &mut select.sort_clause {
                self.expression(node, Context::Value)?;
            }
        }
        for node in [&mut select.limit_offset, &mut select.limit_count, &mut select.having_clause].into_iter().flatten() {
            self.expression(node, Context::Value)?;
        }
        if let Some(condition) = &mut select.where_clause {
            self.expression(condition, Context::Filter)?;
            let preserved = self.current_scope().iter().copied().filter(|&index| !self.occurrences[index].nullable).collect();
            self.collect_equalities(condition, &preserved)?;
        }
        self.scopes.pop();
        Ok(())
    }

    fn current_scope(&self) -> &[usize] {
        self.scopes.last().map_or(&[], Vec::as_slice)
    }

    /// Adds a FROM item's occurrences to the scope and returns them.
    fn add_from_item(&mut self, item: &mut Node, nullable: bool, outermost: bool) -> Outcome<BTreeSet<usize>> {
        match item.node.as_mut() {
            Some(NodeEnum::RangeVar(table)) => self.table(table, nullable, outermost).map(|index| BTreeSet::from([index])),
            Some(NodeEnum::JoinExpr(join)) => self.join(join, nullable, outermost),
            Some(NodeEnum::RangeSubselect(_)) => Err(Obstacle("it has a subquery in FROM".to_owned())),
            Some(NodeEnum::RangeFunction(_)) => Err(Obstacle("it has a function in FROM".to_owned())),
            Some(NodeEnum::RangeTableSample(_)) => Err(Obstacle("it samples a table".to_owned())),
            Some(_) | None => Err(Obstacle("its FROM clause has a construct that is not known".to_owned())),
        }
    }

    fn table(&mut self, table: &RangeVar, nullable: bool, outermost: bool) -> Outcome<usize> {
        let known = |relation: &Relation| relation.schema == table.schemaname && relation.name == table.relname;
        let Some(relation) = self.relations.iter().position(known) else {
            return Err(Obstacle(format!("it reads {}.{}, which is not a table", table.schemaname, table.relname)));
        };
        if self.relations[relation].kind == RelationKind::InheritanceParent {
            return Err(Obstacle(format!("{} has inheritance children", self.relations[relation].label())));
        }
        if !table.inh {
            return Err(Obstacle(format!("it reads ONLY {}", self.relations[relation].label())));
        }
        let alias = match &table.alias {
            Some(alias) if !alias.colnames.is_empty() => {
                return Err(Obstacle(format!("the alias {} renames columns", alias.aliasname)));
            }
            Some(alias) => alias.aliasname.clone(),
            None => table.relname.clone(),
        };
        self.occurrences.push(Occurrence { alias, relation, nullable, outermost });
        let index = self.occurrences.len() - 1;
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(index);
        }
        Ok(index)
    }

    fn join(&mut self, join: &mut JoinExpr, nullable: bool, outermost: bool) -> Outcome<BTreeSet<usize>> {
        if join.alias.is_some() || join.join_using_alias.is_some() {
            return Err(Obstacle("a join has an alias".to_owned()));
        }
        let kind = JoinType::try_from(join.jointype).unwrap_or(JoinType::Undefined);
        let (left_nullable, right_nullable) = match kind {
            JoinType::JoinInner => (nullable, nullable),
            JoinType::JoinLeft => (nullable, true),
            JoinType::JoinRight => (true, nullable),
            JoinType::JoinFull => return Err(Obstacle("it has a full outer join".to_owned())),
            _ => return Err(Obstacle("it has a join of an unknown kind".to_owned())),
        };
        let (Some(left), Some(right)) = (&mut join.larg, &mut join.rarg) else {
            return Err(Obstacle("a join lacks a side".to_owned()));
        };
        let left = self.add_from_item(left, left_nullable, outermost)?;
        let right = self.add_from_item(right, right_nullable, outermost)?;
        // A row of the preserved side is there whether or not the condition holds, so the condition says nothing about it.
        let constrained: BTreeSet<usize> = match kind {
            JoinType::JoinLeft => right.clone(),
            JoinType::JoinRight => left.clone(),
            _ => left.union(&right).copied().collect(),
        };
        if !join.using_clause.is_empty() {
            self.using_to_on(join, kind, &left, &right)?;
        }
        if let Some(condition) = &mut join.quals {
            let context = if kind == JoinType::JoinInner && !nullable { Context::Filter } else { Context::Value };
            self.expression(condition, context)?;
            self.collect_equalities(condition, &constrained)?;
        }
        Ok(left.union(&right).copied().collect())
    }

    /// Writes USING (c) as ON left.c = right.c. Of several left columns of that name, all but the first were merged into it by
    /// earlier USING clauses, or PostgreSQL would have called the name ambiguous.
    fn using_to_on(&self, join: &mut JoinExpr, kind: JoinType, left: &BTreeSet<usize>, right: &BTreeSet<usize>) -> Outcome<()> {
        if kind == JoinType::JoinRight {
            return Err(Obstacle("it has a right join with USING; write the condition with ON".to_owned()));
        }
        for column in std::mem::take(&mut join.using_clause) {
            let name = string_of(&column).unwrap_or_default();
            let owner = |side: &BTreeSet<usize>| {
                let has_column = |index: &&usize| self.relations[self.occurrences[**index].relation].column(name).is_some();
                side.iter().find(has_column).map(|&index| self.occurrences[index].alias.clone())
            };
            let (Some(left), Some(right)) = (owner(left), owner(right)) else {
                return Err(Obstacle(format!("the column {name} of USING cannot be attributed to a table")));
            };
            let equal = syntax::parse_expression(&format!(
                "{}.{name} = {}.{name}",
                quote::identifier(&left),
                quote::identifier(&right),
                name = quote::identifier(name)
            ))?;
            join.quals = Some(syntax::and(join.quals.take(), equal));
        }
        Ok(())
    }

    /// Qualifies the references of an expression and enters its subqueries.
    fn expression(&mut self, node: &mut Node, context: Context) -> Outcome<()> {
        let inner = match &node.node {
            Some(NodeEnum::BoolExpr(expression)) if expression.boolop != BoolExprType::NotExpr as i32 => context,
            _ => Context::Value,
        };
        match node.node.as_mut() {
            Some(NodeEnum::ColumnRef(reference)) => {
                self.qualify(reference)?;
            }
            Some(NodeEnum::SubLink(link)) => return self.subquery(link, context),
            Some(_) | None => {}
        }
        for child in children(node)? {
            self.expression(child, inner)?;
        }
        Ok(())
    }

    fn qualify(&self, reference: &mut ColumnRef) -> Outcome<usize> {
        let (alias, column) = match reference.fields.as_slice() {
            [column] => (None, column),
            [alias, column] => (string_of(alias), column),
            _ => return Err(Obstacle("a column reference has an unusual form".to_owned())),
        };
        let column_name = string_of(column);
        let fits = |&&index: &&usize| {
            let occurrence = &self.occurrences[index];
            let has_column = column_name.is_none_or(|name| self.relations[occurrence.relation].column(name).is_some());
            alias.map_or(column_name.is_some() && has_column, |alias| occurrence.alias == alias && has_column)
        };
        for scope in self.scopes.iter().rev() {
            let candidates: Vec<usize> = scope.iter().filter(fits).copied().collect();
            match candidates.as_slice() {
                [] => {}
                [index] => {
                    let alias = syntax::wrap(NodeEnum::String(pg_query::protobuf::String {
                        sval: self.occurrences[*index].alias.clone(),
                    }));
                    let column = column.clone();
                    reference.fields = vec![alias, column];
                    return Ok(*index);
                }
                _ => break,
            }
        }
        Err(Obstacle(format!("the reference {} cannot be attributed to one table", name_parts(&reference.fields).join("."))))
    }

    fn subquery(&mut self, link: &mut SubLink, context: Context) -> Outcome<()> {
        if let Some(test) = &mut link.testexpr {
            self.expression(test, Context::Value)?;
        }
        let test = link.testexpr.as_deref().cloned();
        let Some(NodeEnum::SelectStmt(select)) = link.subselect.as_mut().and_then(|node| node.node.as_mut()) else {
            return Err(Obstacle("a subquery is not a SELECT".to_owned()));
        };
        let first = self.occurrences.len();
        self.select(select)?;
        let is_equality = link.oper_name.is_empty() || name_parts(&link.oper_name).last() == Some(&"=");
        // Which rows LIMIT or DISTINCT ON keep depends on the others; then membership is not decided by one row alone.
        let by_row = select.group_clause.is_empty()
            && select.distinct_clause.is_empty()
            && select.limit_count.is_none()
            && select.limit_offset.is_none();
        if link.sub_link_type == SubLinkType::AnySublink as i32 && is_equality && by_row {
            let inner: BTreeSet<usize> = (first..self.occurrences.len()).filter(|&i| !self.occurrences[i].nullable).collect();
            self.membership_equality(test.as_ref(), select, &inner, context)?;
        }
        Ok(())
    }

    /// `x IN (SELECT y.c …)` ties `y.c` to `x`: for one `x`, only rows with `c = x` matter.
    ///
    /// Where NULL and false differ this holds only if `x` is never NULL: NULL IN (nothing) is false, NULL IN (something) is NULL.
    fn membership_equality(
        &mut self,
        test: Option<&Node>,
        select: &SelectStmt,
        inner: &BTreeSet<usize>,
        context: Context,
    ) -> Outcome<()> {
        let (Some(test), [target]) = (test, select.target_list.as_slice()) else { return Ok(()) };
        let Some(NodeEnum::ResTarget(target)) = &target.node else { return Ok(()) };
        let Some(member) = target.val.as_deref() else { return Ok(()) };
        let never_null = self.plain_column(test).is_some_and(|(index, column)| {
            let occurrence = &self.occurrences[index];
            !occurrence.nullable && self.relations[occurrence.relation].column(&column).is_some_and(|column| column.not_null)
        });
        if context == Context::Filter || never_null {
            self.add_equality(member, test, inner)?;
        }
        Ok(())
    }

    fn collect_equalities(&mut self, condition: &Node, constrained: &BTreeSet<usize>) -> Outcome<()> {
        for conjunct in conjuncts(condition) {
            let Some(NodeEnum::AExpr(comparison)) = &conjunct.node else { continue };
            if comparison.kind != AExprKind::AexprOp as i32 || !matches!(name_parts(&comparison.name).as_slice(), ["="]) {
                continue;
            }
            if let (Some(left), Some(right)) = (&comparison.lexpr, &comparison.rexpr) {
                self.add_equality(left, right, constrained)?;
                self.add_equality(right, left, constrained)?;
            }
        }
        Ok(())
    }

    fn add_equality(&mut self, side: &Node, value: &Node, constrained: &BTreeSet<usize>) -> Outcome<()> {
        let (bare, cast) = strip_cast(side);
        let Some((occurrence, column)) = self.plain_column(bare) else { return Ok(()) };
        if !constrained.contains(&occurrence) || contains_subquery(value)? {
            return Ok(());
        }
        let mut depends_on = BTreeSet::new();
        self.references(&mut value.clone(), &mut depends_on)?;
        if depends_on.contains(&occurrence) {
            return Ok(());
        }
        self.equalities.push(Equality {
            occurrence,
            column,
            cast,
            value: print_expression(value)?,
            value_column: self.plain_column(value),
            depends_on,
        });
        Ok(())
    }

    /// The occurrence and column of a qualified reference to a column.
    fn plain_column(&self, node: &Node) -> Option<(usize, String)> {
        let Some(NodeEnum::ColumnRef(reference)) = &node.node else { return None };
        let [alias, column] = reference.fields.as_slice() else { return None };
        Some((self.by_alias(string_of(alias)?)?, string_of(column)?.to_owned()))
    }

    /// The innermost occurrence of that alias. References are qualified by now, and an inner alias hides an outer one.
    fn by_alias(&self, alias: &str) -> Option<usize> {
        self.scopes
            .iter()
            .rev()
            .flatten()
            .chain(self.closed_scopes().iter())
            .copied()
            .find(|&index| self.occurrences[index].alias == alias)
    }

    /// Occurrences of subqueries that have been left: reachable only for [`Self::membership_equality`], right after leaving.
    fn closed_scopes(&self) -> Vec<usize> {
        let open: BTreeSet<usize> = self.scopes.iter().flatten().copied().collect();
        (0..self.occurrences.len()).rev().filter(|index| !open.contains(index)).collect()
    }

    fn references(&self, node: &mut Node, found: &mut BTreeSet<usize>) -> Outcome<()> {
        if let Some(NodeEnum::ColumnRef(reference)) = &node.node {
            let alias = reference.fields.first().and_then(string_of).unwrap_or_default();
            found.insert(self.by_alias(alias).ok_or_else(|| Obstacle(format!("{alias} is not a table of the query")))?);
        }
        for child in children(node)? {
            self.references(child, found)?;
        }
        Ok(())
    }
}

fn refuse_unsupported(select: &SelectStmt) -> Outcome<()> {
    let refuse = |condition: bool, reason: &str| if condition { Err(Obstacle(reason.to_owned())) } else { Ok(()) };
    refuse(select.op != SetOperation::SetopNone as i32, "it combines SELECTs with UNION, INTERSECT or EXCEPT")?;
    refuse(select.with_clause.is_some(), "it has a WITH clause")?;
    refuse(!select.values_lists.is_empty(), "it is a VALUES list")?;
    refuse(!select.window_clause.is_empty(), "it has a window")?;
    refuse(!select.locking_clause.is_empty(), "it locks rows")
}

/// Takes off a cast to text, which PostgreSQL adds around varchar columns in comparisons and which loses nothing.
fn strip_cast(node: &Node) -> (&Node, Option<String>) {
    if let Some(NodeEnum::TypeCast(cast)) = &node.node
        && let (Some(argument), Some(type_name)) = (&cast.arg, &cast.type_name)
        && name_parts(&type_name.names).last() == Some(&"text")
        && type_name.array_bounds.is_empty()
    {
        return (argument, Some("text".to_owned()));
    }
    (node, None)
}

fn contains_subquery(node: &Node) -> Outcome<bool> {
    if matches!(&node.node, Some(NodeEnum::SubLink(_))) {
        return Ok(true);
    }
    let mut copy = node.clone();
    let mut found = false;
    for child in children(&mut copy)? {
        found |= contains_subquery(child)?;
    }
    Ok(found)
}

impl Equality {
    /// The dirty identity column `dirty` brought into the comparison's type.
    pub(crate) fn cast_dirty(&self, dirty: &str) -> String {
        self.cast.as_ref().map_or_else(|| dirty.to_owned(), |cast| format!("({dirty})::{cast}"))
    }

    /// `alias.column`, cast as in the comparison.
    pub(crate) fn column_sql(&self, occurrence: &Occurrence) -> String {
        self.cast_dirty(&format!("{}.{}", quote::identifier(&occurrence.alias), quote::identifier(&self.column)))
    }
}
