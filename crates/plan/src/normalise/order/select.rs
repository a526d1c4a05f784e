//! The walk over a query's SELECTs, innermost first.

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, FuncCall, LimitOption, Node, RangeSubselect, SelectStmt, SubLinkType};

use super::rows::{Item, Level, Shape, ShapeColumn, learn_conditions, term};
use super::shape::{columns_of, inherited, integer, number_rows, shape, whole_rows};
use super::tie::Tie;
use super::window::{Looks, Ties, looks, ties};

use crate::model::facts::{FunctionKind, Query};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::syntax::{self, children, clauses, name_parts, print_expression, string_of, wrap};

/// PostgreSQL's aggregates whose result depends on the order of their input. The sum of floats does as well, in its last digits, and is
/// compared accordingly.
const IN_ORDER: [&str; 11] = [
    "string_agg",
    "array_agg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "xmlagg",
    "json_agg_strict",
    "jsonb_agg_strict",
    "json_object_agg_strict",
    "json_object_agg_unique",
];

/// A construct's text is cut there.
const CONSTRUCT_MAX: usize = 160;

/// What is made of a SELECT's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// They have no order.
    Rows,
    /// An array in their order.
    Array,
    /// Whether there is one.
    Existence,
}

/// What is ordered.
#[derive(Clone, Copy)]
struct Scope<'a> {
    level: &'a Level,
    /// The grouping expressions, where the rows are groups.
    groups: Option<&'a [Node]>,
    /// Constant in what is ordered: partition, group.
    constant: &'a [Node],
}

pub(super) struct Settler<'a> {
    query: &'a Query,
    pub(super) ties: Vec<Tie>,
    /// Whether the functions in the FROM clause at hand have to number their rows.
    numbering: bool,
}

impl<'a> Settler<'a> {
    pub(super) fn new(query: &'a Query) -> Self {
        Self { query, ties: Vec::new(), numbering: false }
    }

    pub(super) fn top(&mut self, select: &mut SelectStmt) -> Outcome<()> {
        self.select(select, &[], Use::Rows).map(|_| ())
    }

    fn select(&mut self, select: &mut SelectStmt, outer: &[(String, Shape)], used: Use) -> Outcome<Shape> {
        let mut named = outer.to_vec();
        if let Some(with) = &mut select.with_clause {
            for expression in &mut with.ctes {
                let Some(NodeEnum::CommonTableExpr(expression)) = expression.node.as_mut() else { continue };
                let Some(NodeEnum::SelectStmt(inner)) = expression.ctequery.as_mut().and_then(|query| query.node.as_mut()) else {
                    return Err(Obstacle::new("its WITH clause changes data"));
                };
                if with.recursive {
                    // Its own rows are known by their columns alone.
                    let own = Shape { key: None, order: Vec::new(), ..columns_of(inner) }.renamed(&expression.aliascolnames);
                    named.push((expression.ctename.clone(), own));
                }
                let shape = self.select(inner, &named, Use::Rows)?.renamed(&expression.aliascolnames);
                named.push((expression.ctename.clone(), shape));
            }
        }
        if syntax::is_set_operation(select) {
            for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
                self.select(side, &named, Use::Rows)?;
            }
            return Ok(self.combination(select, used));
        }
        if !select.values_lists.is_empty() {
            // They come as they are written, and nothing of them says so.
            return Ok(Shape { order: vec![Err(())], ..columns_of(select) });
        }
        let outside = std::mem::take(&mut self.numbering);
        let mut level = Level::default();
        for item in &mut select.from_clause {
            self.item(item, &named, &mut level)?;
        }
        let rows_as_values = whole_rows(select)?;
        for item in &mut level.items {
            item.numbered &= !rows_as_values.contains(&item.alias);
        }
        learn_conditions(&mut level, select);
        let inherited = inherited(&level);
        let groups = select.group_clause.clone();
        let aggregates = syntax::is_aggregate(select, &self.query.functions)?;
        let template = select.clone();
        for clause in clauses(select) {
            self.expression(clause, &named, &level, (&template, aggregates.then_some(groups.as_slice())), inherited.as_deref())?;
        }
        let scope = Scope { level: &level, groups: aggregates.then_some(groups.as_slice()), constant: &[] };
        self.rows_kept(select, scope, used, inherited.as_deref())?;
        if std::mem::replace(&mut self.numbering, outside) {
            select.from_clause.iter_mut().for_each(number_rows);
        }
        Ok(shape(select, &level, aggregates, &self.query.functions))
    }

    /// ORDER BY of `UNION` and its like: over output columns only.
    fn combination(&mut self, select: &mut SelectStmt, used: Use) -> Shape {
        let mut shape = columns_of(select);
        let limited = is_limited(select);
        let count = shape.columns.as_ref().map_or(0, Vec::len);
        let number = |node: &Node| match &node.node {
            Some(NodeEnum::SortBy(sort)) => sort.node.as_ref().and_then(|node| integer(node)),
            Some(_) | None => None,
        };
        let present: Vec<usize> = select.sort_clause.iter().filter_map(number).collect();
        if (limited || used == Use::Array) && used != Use::Existence && count > present.len() {
            let missing: Vec<String> = (1..=count).filter(|n| !present.contains(n)).map(|n| n.to_string()).collect();
            if let Some(items) = sort_items(&missing) {
                let construct = if limited { "LIMIT" } else { "ARRAY(…)" };
                select.sort_clause.extend(items);
                self.note(format!("{construct} over UNION and its like"), missing, true);
            }
        }
        if !select.all {
            shape.key = shape.columns.as_ref().map(|columns| columns.iter().map(|column| column.name.clone()).collect());
        }
        shape
    }

    fn item(&mut self, item: &mut Node, named: &[(String, Shape)], level: &mut Level) -> Outcome<()> {
        match item.node.as_mut() {
            Some(NodeEnum::RangeVar(table)) => {
                let names = table.alias.as_ref().map(|alias| alias.colnames.clone()).unwrap_or_default();
                let alias = table.alias.as_ref().map_or_else(|| table.relname.clone(), |alias| alias.aliasname.clone());
                let (schema, name) = (table.schemaname.clone(), table.relname.clone());
                if schema.is_empty() {
                    let shape = named.iter().rev().find(|(known, _)| *known == name).map(|(_, shape)| shape.clone());
                    level.items.push(Item { alias, shape: shape.unwrap_or_default().renamed(&names), numbered: false });
                    return Ok(());
                }
                if let Some(view) = self.query.views.iter().find(|view| view.schema == schema && view.name == name) {
                    let mut inner = syntax::parse_select(&view.sql)?;
                    let before = self.ties.iter().filter(|tie| !tie.appended.is_empty()).count();
                    let shape = self.select(&mut inner, &[], Use::Rows)?;
                    if self.ties.iter().filter(|tie| !tie.appended.is_empty()).count() > before {
                        // The view itself is the application's.
                        let subquery = Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(inner)))));
                        let written = Some(Alias { aliasname: alias.clone(), colnames: names.clone() });
                        *item =
                            wrap(NodeEnum::RangeSubselect(Box::new(RangeSubselect { lateral: false, subquery, alias: written })));
                    }
                    level.items.push(Item { alias, shape: shape.renamed(&names), numbered: false });
                    return Ok(());
                }
                let relation = self.query.relations.iter().find(|found| found.schema == schema && found.name == name);
                let shape = relation.map(Shape::of_relation).unwrap_or_default().renamed(&names);
                level.items.push(Item { alias, shape, numbered: false });
                Ok(())
            }
            Some(NodeEnum::RangeSubselect(subselect)) => {
                let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) else {
                    return Err(Obstacle::new("a subquery in FROM is not a SELECT"));
                };
                let shape = self.select(inner, named, Use::Rows)?;
                let alias = subselect.alias.clone().unwrap_or_default();
                level.items.push(Item { alias: alias.aliasname, shape: shape.renamed(&alias.colnames), numbered: false });
                Ok(())
            }
            Some(NodeEnum::RangeFunction(function)) => {
                let alias = function.alias.clone().unwrap_or_default();
                let names: Vec<String> = alias.colnames.iter().filter_map(string_of).map(str::to_owned).collect();
                let key = function.ordinality.then(|| names.last().cloned().into_iter().collect());
                let column = |name: &String| ShapeColumn {
                    name: name.clone(),
                    type_name: (function.ordinality && Some(name) == names.last()).then(|| "bigint".to_owned()),
                };
                let columns = (!names.is_empty()).then(|| names.iter().map(column).collect());
                let numbered = !names.is_empty() && !function.ordinality && function.coldeflist.is_empty();
                level.items.push(Item { alias: alias.aliasname, shape: Shape { columns, key, order: Vec::new() }, numbered });
                Ok(())
            }
            Some(NodeEnum::JoinExpr(join)) => {
                for side in [&mut join.larg, &mut join.rarg].into_iter().flatten() {
                    self.item(side, named, level)?;
                }
                if join.alias.is_some() || join.join_using_alias.is_some() {
                    return Err(Obstacle::new("a join has an alias"));
                }
                let Some(condition) = join.quals.as_deref_mut() else { return Ok(()) };
                let here = level.clone();
                self.expression(condition, named, &here, (&SelectStmt::default(), None), Some(&[]))
            }
            Some(_) | None => Err(Obstacle::new("its FROM clause has a construct that is not known")),
        }
    }

    /// Everything inside an expression.
    fn expression(
        &mut self,
        node: &mut Node,
        named: &[(String, Shape)],
        level: &Level,
        of: (&SelectStmt, Option<&[Node]>),
        inherited: Option<&[Node]>,
    ) -> Outcome<()> {
        if let Some(NodeEnum::SubLink(link)) = node.node.as_mut() {
            let used = match SubLinkType::try_from(link.sub_link_type).unwrap_or(SubLinkType::Undefined) {
                SubLinkType::ArraySublink => Use::Array,
                SubLinkType::ExistsSublink => Use::Existence,
                _ => Use::Rows,
            };
            if let Some(NodeEnum::SelectStmt(inner)) = link.subselect.as_mut().and_then(|node| node.node.as_mut()) {
                self.select(inner, named, used)?;
            }
        }
        for child in children(node)? {
            self.expression(child, named, level, of, inherited)?;
        }
        let is_window = matches!(&node.node, Some(NodeEnum::FuncCall(call)) if call.over.is_some());
        let is_aggregate = syntax::is_aggregate_call(node, &self.query.functions);
        let construct = if is_window || is_aggregate { shortened(&print_expression(node)?) } else { return Ok(()) };
        let Some(NodeEnum::FuncCall(call)) = node.node.as_mut() else { return Ok(()) };
        if is_window {
            self.window(call, construct, level, of, inherited)
        } else {
            self.aggregate(call, construct, level, of.1.unwrap_or_default(), inherited)
        }
    }

    fn aggregate(
        &mut self,
        call: &mut FuncCall,
        construct: String,
        level: &Level,
        groups: &[Node],
        inherited: Option<&[Node]>,
    ) -> Outcome<()> {
        // With DISTINCT what ties is equal, and an ordered-set aggregate orders by its argument alone.
        if call.agg_within_group || call.agg_distinct || call.agg_star || !self.is_in_order(call) || self.is_outer(call, level)? {
            return Ok(());
        }
        let scope = Scope { level, groups: None, constant: groups };
        let values = call.args.clone();
        self.append(&mut call.agg_order, construct, scope, &values, inherited)
    }

    fn window(
        &mut self,
        call: &mut FuncCall,
        construct: String,
        level: &Level,
        (select, groups): (&SelectStmt, Option<&[Node]>),
        inherited: Option<&[Node]>,
    ) -> Outcome<()> {
        let Some(over) = call.over.as_deref() else { return Ok(()) };
        let mut window = syntax::written_out(over, select);
        let name = name_parts(&call.funcname).last().copied().unwrap_or_default().to_owned();
        let looks = looks(&name, is_built_in(call), self.is_in_order(call));
        let constant = window.partition_clause.clone();
        let scope = Scope { level, groups, constant: &constant };
        let frame = match ties(&window, looks) {
            Ties::DoNotMatter => return Ok(()),
            Ties::Append(frame) => frame,
            Ties::Stay => {
                if !self.is_settled(&window.order_clause, scope, &call.args, looks != Looks::AtRows) {
                    self.note(construct, Vec::new(), true);
                }
                return Ok(());
            }
        };
        // In ROWS mode it depends on the row at hand what is seen.
        let by_values = !matches!(looks, Looks::AtRows | Looks::AtAll) && window.frame_options & 0x4 == 0;
        let values = if by_values { call.args.clone() } else { Vec::new() };
        let before = window.order_clause.len();
        self.append(&mut window.order_clause, construct, scope, &values, inherited)?;
        if window.order_clause.len() > before {
            window.frame_options = frame;
            if looks == Looks::AtRows {
                (window.start_offset, window.end_offset) = (None, None);
            }
            call.over = Some(Box::new(window));
        }
        Ok(())
    }

    /// `DISTINCT ON`, LIMIT, and the order of an array's elements.
    fn rows_kept(&mut self, select: &mut SelectStmt, scope: Scope<'_>, used: Use, inherited: Option<&[Node]>) -> Outcome<()> {
        let limited = is_limited(select);
        let on = select.distinct_clause.iter().any(|node| node.node.is_some());
        if used == Use::Existence || !(on || limited || used == Use::Array) {
            return Ok(());
        }
        // An aggregate without GROUP BY is one row.
        if scope.groups.is_some_and(<[Node]>::is_empty) {
            return Ok(());
        }
        let construct = match (on, limited) {
            (true, _) => "DISTINCT ON",
            (false, true) => "LIMIT",
            (false, false) => "ARRAY(SELECT …)",
        };
        let shown = if select.sort_clause.is_empty() { format!("{construct} without ORDER BY") } else { construct.to_owned() };
        let values: Vec<Node> = select.target_list.iter().filter_map(syntax::target_expression).cloned().collect();
        if !select.distinct_clause.is_empty() && !on {
            return self.distinct_outputs(select, shown, &values);
        }
        if on {
            let printed = |node: &Node| sorted(node).and_then(|value| print_expression(value).ok());
            let present: Vec<String> = select.sort_clause.iter().filter_map(printed).collect();
            for value in &select.distinct_clause {
                let text = print_expression(value)?;
                if !present.contains(&text) {
                    // What DISTINCT ON names comes first in ORDER BY.
                    select.sort_clause.extend(sort_items(&[text]).unwrap_or_default());
                }
            }
        }
        let mut order = std::mem::take(&mut select.sort_clause);
        let done = self.append(&mut order, shown, scope, &values, inherited);
        select.sort_clause = order;
        done
    }

    /// ORDER BY of `SELECT DISTINCT` is over the select list.
    fn distinct_outputs(&mut self, select: &mut SelectStmt, construct: String, values: &[Node]) -> Outcome<()> {
        let present: Vec<String> =
            select.sort_clause.iter().filter_map(sorted).map(print_expression).collect::<Result<_, _>>()?;
        let texts: Vec<String> = values.iter().map(print_expression).collect::<Result<_, _>>()?;
        let missing: Vec<String> = texts.into_iter().filter(|text| !present.contains(text)).collect();
        if let (false, Some(items)) = (missing.is_empty(), sort_items(&missing)) {
            select.sort_clause.extend(items);
            self.note(construct, missing, true);
        }
        Ok(())
    }

    /// Appends what is missing to an order, unless it does not matter: then the values are fixed without it.
    fn append(
        &mut self,
        order: &mut Vec<Node>,
        construct: String,
        scope: Scope<'_>,
        values: &[Node],
        inherited: Option<&[Node]>,
    ) -> Outcome<()> {
        let unordered = order.is_empty();
        if self.is_settled(order, scope, values, !values.is_empty()) {
            return Ok(());
        }
        let keys: Vec<Node> = order.iter().filter_map(sorted).chain(scope.constant).cloned().collect();
        let determined = scope.level.determined(&keys);
        let printed: Vec<String> = keys.iter().filter_map(|key| print_expression(key).ok()).collect();
        let equal = |value: &Node| {
            scope.level.references(value).is_some_and(|all| all.iter().all(|one| determined.has(one)))
                || print_expression(value).is_ok_and(|text| printed.contains(&text))
        };
        // PostgreSQL takes what a function returns as it comes.
        let by_function = scope.groups.is_none() && scope.level.items.iter().all(|item| item.numbered);
        let between_unequal = !by_function && (values.is_empty() || !values.iter().all(equal));
        // Rows that come from an ordered subquery are taken in its order, as PostgreSQL does.
        let first = if unordered && scope.groups.is_none() { inherited.map(<[Node]>::to_vec) } else { Some(Vec::new()) };
        let (Some(first), Some(terms)) = (first, terms(scope)) else {
            self.note(construct, Vec::new(), between_unequal);
            return Ok(());
        };
        let Some(items) = sort_items(&terms) else { return Ok(()) };
        self.numbering |= scope.groups.is_none();
        let mut shown: Vec<String> = first.iter().map(syntax::print_sort).collect::<Result<_, _>>()?;
        shown.extend(terms);
        order.extend(first.into_iter().chain(items));
        self.note(construct, shown, between_unequal);
        Ok(())
    }

    /// Whether ties under an order decide nothing.
    #[expect(clippy::unused_self, reason = "one of the questions that the walk asks")]
    fn is_settled(&self, order: &[Node], scope: Scope<'_>, values: &[Node], by_values: bool) -> bool {
        let keys: Vec<Node> = order.iter().filter_map(sorted).chain(scope.constant).cloned().collect();
        let determined = scope.level.determined(&keys);
        let printed: Vec<String> = keys.iter().filter_map(|key| print_expression(key).ok()).collect();
        let is_key = |node: &Node| print_expression(node).is_ok_and(|text| printed.contains(&text));
        let total = match scope.groups {
            None => scope.level.is_total(&determined),
            Some(groups) => groups.iter().all(|group| is_key(group) || scope.level.is_fixed(group, &determined)),
        };
        total || (by_values && values.iter().all(|value| scope.level.is_fixed(value, &determined)))
    }

    fn note(&mut self, construct: String, appended: Vec<String>, between_unequal: bool) {
        let tie = Tie { construct, appended, between_unequal };
        if !self.ties.contains(&tie) {
            self.ties.push(tie);
        }
    }

    /// Whether it is an aggregate that takes its input in order; of one that somebody made it is not known.
    fn is_in_order(&self, call: &FuncCall) -> bool {
        let name = name_parts(&call.funcname).last().copied().unwrap_or_default();
        if is_built_in(call) {
            return IN_ORDER.contains(&name);
        }
        self.query.functions.iter().any(|function| function.kind == FunctionKind::Aggregate && function.name == name)
    }

    /// Whether an aggregate is one of a query around this one: `(SELECT array_agg(outer.x))`.
    #[expect(clippy::unused_self, reason = "one of the questions that the walk asks")]
    fn is_outer(&self, call: &FuncCall, level: &Level) -> Outcome<bool> {
        let (mut any, mut own) = (false, false);
        for argument in call.args.iter().chain(&call.agg_order) {
            any |= syntax::reads_columns(&mut argument.clone())?;
            own |= level.references(argument).is_none_or(|references| !references.is_empty());
        }
        Ok(any && !own)
    }
}

/// What tells the rows of a scope apart, as ORDER BY items.
fn terms(scope: Scope<'_>) -> Option<Vec<String>> {
    let Some(groups) = scope.groups else { return scope.level.terms() };
    groups
        .iter()
        .map(|group| {
            let grouped_by_set = matches!(&group.node, Some(NodeEnum::GroupingSet(_) | NodeEnum::AConst(_)));
            let text = print_expression(group).ok().filter(|_| !grouped_by_set)?;
            Some(term(&text, scope.level.type_of(group).as_deref()))
        })
        .collect()
}

fn is_built_in(call: &FuncCall) -> bool {
    matches!(name_parts(&call.funcname).as_slice(), [_] | ["pg_catalog", _])
}

/// The value of an ORDER BY item.
fn sorted(sort: &Node) -> Option<&Node> {
    match &sort.node {
        Some(NodeEnum::SortBy(sort)) => sort.node.as_deref(),
        Some(_) | None => None,
    }
}

fn sort_items(terms: &[String]) -> Option<Vec<Node>> {
    if terms.is_empty() {
        return Some(Vec::new());
    }
    Some(syntax::parse_select(&format!("SELECT 1 ORDER BY {}", terms.join(", "))).ok()?.sort_clause)
}

/// Whether LIMIT or OFFSET keeps rows by their order. All that tie with the last are kept WITH TIES.
fn is_limited(select: &SelectStmt) -> bool {
    let some = |node: &Option<Box<Node>>| match node.as_ref().and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::AConst(constant)) => !constant.isnull,
        Some(_) => true,
        None => false,
    };
    select.limit_option != LimitOption::WithTies as i32 && (some(&select.limit_count) || some(&select.limit_offset))
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= CONSTRUCT_MAX {
        return text.to_owned();
    }
    text.chars().take(CONSTRUCT_MAX).chain(['…']).collect()
}
