//! Parsing and printing, by PostgreSQL's own grammar, through `pg_query`.

use pg_query::protobuf::{self, Node, ParseResult, RawStmt, ResTarget, SelectStmt};
use pg_query::{DeparseOptions, NodeEnum};

use super::walk::{children, clauses, for_each_subquery};

/// Stack for parsing and planning: a legal query can nest deeper than a thread's default stack.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Runs `work` on a thread with a large stack.
pub(crate) fn with_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("planner".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("cannot start the planner's thread: {error}"))?;
        thread.join().map_err(|_| "the planner panicked on this query; please report it".to_owned())
    })
}

/// Parses one SELECT.
pub(crate) fn parse_select(sql: &str) -> Result<SelectStmt, String> {
    let result = pg_query::parse(sql, 0).map_err(|error| error.to_string())?;
    let mut statements = result.protobuf.stmts.into_iter();
    match (statements.next().and_then(|raw| raw.stmt).and_then(|node| node.node), statements.next()) {
        (Some(NodeEnum::SelectStmt(select)), None) => Ok(*select),
        (Some(_), None) => Err("not a SELECT".to_owned()),
        (Some(_), Some(_)) => Err("more than one statement".to_owned()),
        (None, _) => Err("empty".to_owned()),
    }
}

/// Parses an expression.
pub(crate) fn parse_expression(sql: &str) -> Result<Node, String> {
    let select = parse_select(&format!("SELECT {sql}"))?;
    target_value(select.target_list.into_iter().next()).ok_or_else(|| "no expression".to_owned())
}

fn target_value(target: Option<Node>) -> Option<Node> {
    match target?.node? {
        NodeEnum::ResTarget(target) => target.val.map(|value| *value),
        _ => None,
    }
}

/// Prints a SELECT.
fn print_select(select: &SelectStmt) -> Result<String, String> {
    print(select, false)
}

/// Prints a SELECT over several lines.
pub(crate) fn print_select_pretty(select: &SelectStmt) -> Result<String, String> {
    print(select, true)
}

fn print(select: &SelectStmt, pretty_print: bool) -> Result<String, String> {
    let result = ParseResult {
        version: 180_000,
        stmts: vec![RawStmt {
            stmt: Some(Box::new(wrap(NodeEnum::SelectStmt(Box::new(select.clone()))))),
            stmt_location: 0,
            stmt_len: 0,
        }],
    };
    let options = DeparseOptions { pretty_print, indent_size: 2, max_line_length: 100, ..DeparseOptions::default() };
    pg_query::deparse(&result, options).map_err(|error| error.to_string())
}

/// Prints an expression. Equal expressions print equally, which is how expressions are compared.
pub(crate) fn print_expression(expression: &Node) -> Result<String, String> {
    let target = ResTarget { val: Some(Box::new(expression.clone())), ..ResTarget::default() };
    let select = SelectStmt {
        target_list: vec![wrap(NodeEnum::ResTarget(Box::new(target)))],
        limit_option: protobuf::LimitOption::Default as i32,
        op: protobuf::SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    };
    let text = print_select(&select)?;
    text.strip_prefix("SELECT ").map(str::to_owned).ok_or_else(|| format!("unprintable expression: {text}"))
}

/// A node of one kind.
pub(crate) fn wrap(node: NodeEnum) -> Node {
    Node { node: Some(node) }
}

/// The text of a `String` node.
pub(crate) fn string_of(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::String(string)) => Some(&string.sval),
        _ => None,
    }
}

/// A `String` node.
pub(crate) fn string(text: &str) -> Node {
    wrap(NodeEnum::String(protobuf::String { sval: text.to_owned() }))
}

/// A list of `String` nodes as texts: a function's or operator's name.
pub(crate) fn name_parts(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().filter_map(string_of).collect()
}

/// `left AND right`, where either may be missing.
pub(crate) fn and(left: Option<Box<Node>>, right: Node) -> Box<Node> {
    let Some(left) = left else { return Box::new(right) };
    let conjunction = protobuf::BoolExpr {
        boolop: protobuf::BoolExprType::AndExpr as i32,
        args: vec![*left, right],
        ..protobuf::BoolExpr::default()
    };
    Box::new(wrap(NodeEnum::BoolExpr(Box::new(conjunction))))
}

/// The operands of nested ANDs.
pub(crate) fn conjuncts(node: &Node) -> Vec<&Node> {
    match &node.node {
        Some(NodeEnum::BoolExpr(expression)) if expression.boolop == protobuf::BoolExprType::AndExpr as i32 => {
            expression.args.iter().flat_map(conjuncts).collect()
        }
        _ => vec![node],
    }
}

/// A reference to `alias.column`.
pub(crate) fn column_reference(alias: &str, column: &str) -> Node {
    let reference = protobuf::ColumnRef { fields: vec![string(alias), string(column)], location: -1 };
    wrap(NodeEnum::ColumnRef(reference))
}

/// The expression of a select list's item.
pub(crate) fn target_expression(target: &Node) -> Option<&Node> {
    match &target.node {
        Some(NodeEnum::ResTarget(target)) => target.val.as_deref(),
        Some(_) | None => None,
    }
}

/// A select list's item.
pub(crate) fn target(name: &str, value: Node) -> Node {
    let target = ResTarget { name: name.to_owned(), val: Some(Box::new(value)), ..ResTarget::default() };
    wrap(NodeEnum::ResTarget(Box::new(target)))
}

/// Whether the SELECT is `UNION`, `INTERSECT` or `EXCEPT` of two.
pub(crate) fn is_set_operation(select: &SelectStmt) -> bool {
    select.op != protobuf::SetOperation::SetopNone as i32 && select.op != protobuf::SetOperation::Undefined as i32
}

/// `NOT node`.
pub(crate) fn not(node: Node) -> Node {
    let negation =
        protobuf::BoolExpr { boolop: protobuf::BoolExprType::NotExpr as i32, args: vec![node], ..protobuf::BoolExpr::default() };
    wrap(NodeEnum::BoolExpr(Box::new(negation)))
}

/// Whether a condition is the constant `false`.
pub(crate) fn is_false(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(constant))
        if matches!(&constant.val, Some(protobuf::a_const::Val::Boolval(value)) if !value.boolval))
}

/// Prints a FROM item.
pub(crate) fn print_from_item(item: &Node) -> Result<String, String> {
    let select = SelectStmt {
        target_list: vec![target("", parse_expression("1")?)],
        from_clause: vec![item.clone()],
        limit_option: protobuf::LimitOption::Default as i32,
        op: protobuf::SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    };
    let text = print_select(&select)?;
    text.strip_prefix("SELECT 1 FROM ").map(str::to_owned).ok_or_else(|| format!("unprintable FROM item: {text}"))
}

/// Replaces references to columns: `replaced` has the alias and the column.
pub(crate) fn change_references(node: &mut Node, replaced: &dyn Fn(&str, &str) -> Option<Node>) -> Result<(), String> {
    if let Some(NodeEnum::ColumnRef(reference)) = &node.node
        && let [alias, column] = name_parts(&reference.fields)[..]
        && let Some(other) = replaced(alias, column)
    {
        *node = other;
        return Ok(());
    }
    children(node)?.into_iter().try_for_each(|child| change_references(child, replaced))
}

/// The expression with `alias.column` written as `column`.
pub(crate) fn without_alias(node: &Node, alias: &str) -> Result<Node, String> {
    under_alias(node, alias, None)
}

/// The expression with `alias.column` written as `other.column`.
pub(crate) fn with_alias(node: &Node, alias: &str, other: &str) -> Result<Node, String> {
    under_alias(node, alias, Some(other))
}

fn under_alias(node: &Node, alias: &str, other: Option<&str>) -> Result<Node, String> {
    let mut copy = node.clone();
    if let Some(NodeEnum::ColumnRef(reference)) = copy.node.as_mut()
        && reference.fields.len() == 2
        && reference.fields.first().and_then(string_of) == Some(alias)
    {
        reference.fields.splice(0..1, other.map(string));
    }
    for child in children(&mut copy)? {
        *child = under_alias(child, alias, other)?;
    }
    Ok(copy)
}

/// The SELECT whose FROM clause itself (not a subquery in it) has the alias; aliases must be unique.
pub(crate) fn select_with_alias<'a>(select: &'a mut SelectStmt, alias: &str) -> Option<&'a mut SelectStmt> {
    if select.from_clause.iter().any(|item| has_alias(item, alias)) {
        return Some(select);
    }
    select.from_clause.iter_mut().find_map(|item| subselect_with_alias(item, alias))
}

/// The SELECT whose FROM clause has the alias, in a subquery of an expression.
pub(crate) fn change_subquery_with_alias(
    select: &mut SelectStmt,
    alias: &str,
    change: &mut dyn FnMut(&mut SelectStmt),
) -> Result<(), String> {
    for item in &mut select.from_clause {
        change_in_item(item, alias, change)?;
    }
    for clause in clauses(select) {
        for_each_subquery(clause, &mut |inner| change_within(inner, alias, change))?;
    }
    Ok(())
}

fn change_within(select: &mut SelectStmt, alias: &str, change: &mut dyn FnMut(&mut SelectStmt)) -> Result<(), String> {
    if let Some(holder) = in_arms(select, alias) {
        change(holder);
        return Ok(());
    }
    for side in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
        change_subquery_with_alias(side, alias, change)?;
    }
    change_subquery_with_alias(select, alias, change)
}

fn change_in_item(item: &mut Node, alias: &str, change: &mut dyn FnMut(&mut SelectStmt)) -> Result<(), String> {
    match item.node.as_mut() {
        Some(NodeEnum::JoinExpr(join)) => {
            let protobuf::JoinExpr { larg, rarg, quals, .. } = &mut **join;
            for side in [larg, rarg].into_iter().flatten() {
                change_in_item(side, alias, change)?;
            }
            let condition = quals.as_deref_mut();
            condition.map_or(Ok(()), |condition| for_each_subquery(condition, &mut |inner| change_within(inner, alias, change)))
        }
        Some(NodeEnum::RangeSubselect(subselect)) => match subselect.subquery.as_mut().and_then(|node| node.node.as_mut()) {
            Some(NodeEnum::SelectStmt(select)) => change_subquery_with_alias(select, alias, change),
            Some(_) | None => Ok(()),
        },
        Some(_) | None => Ok(()),
    }
}

fn has_alias(item: &Node, alias: &str) -> bool {
    match &item.node {
        Some(NodeEnum::RangeVar(table)) => table.alias.as_ref().map_or(&table.relname, |alias| &alias.aliasname) == alias,
        Some(NodeEnum::RangeSubselect(subselect)) => subselect.alias.as_ref().is_some_and(|found| found.aliasname == alias),
        Some(NodeEnum::RangeFunction(function)) => function.alias.as_ref().is_some_and(|found| found.aliasname == alias),
        Some(NodeEnum::JoinExpr(join)) => [&join.larg, &join.rarg].into_iter().flatten().any(|side| has_alias(side, alias)),
        Some(_) | None => false,
    }
}

fn subselect_with_alias<'a>(item: &'a mut Node, alias: &str) -> Option<&'a mut SelectStmt> {
    match item.node.as_mut()? {
        NodeEnum::RangeSubselect(subselect) => match subselect.subquery.as_mut()?.node.as_mut()? {
            NodeEnum::SelectStmt(select) => in_arms(select, alias),
            _ => None,
        },
        NodeEnum::JoinExpr(join) => {
            let protobuf::JoinExpr { larg, rarg, .. } = &mut **join;
            [larg, rarg].into_iter().flatten().find_map(|side| subselect_with_alias(side, alias))
        }
        _ => None,
    }
}

fn in_arms<'a>(select: &'a mut SelectStmt, alias: &str) -> Option<&'a mut SelectStmt> {
    if !is_set_operation(select) {
        return select_with_alias(select, alias);
    }
    let SelectStmt { larg, rarg, .. } = select;
    [larg, rarg].into_iter().flatten().find_map(|side| in_arms(side, alias))
}

/// The subselect of FROM that bears the alias.
pub(crate) fn subselect_named<'a>(item: &'a mut Node, alias: &str) -> Option<&'a mut SelectStmt> {
    match item.node.as_mut()? {
        NodeEnum::RangeSubselect(subselect) if subselect.alias.as_ref().is_some_and(|found| found.aliasname == alias) => {
            match subselect.subquery.as_mut()?.node.as_mut()? {
                NodeEnum::SelectStmt(select) => Some(select),
                _ => None,
            }
        }
        NodeEnum::JoinExpr(join) => {
            let protobuf::JoinExpr { larg, rarg, .. } = &mut **join;
            [larg, rarg].into_iter().flatten().find_map(|side| subselect_named(side, alias))
        }
        _ => None,
    }
}

/// Prints an ORDER BY item.
pub(crate) fn print_sort(sort: &Node) -> Result<String, String> {
    let select = SelectStmt {
        target_list: vec![target("", parse_expression("1")?)],
        sort_clause: vec![sort.clone()],
        limit_option: protobuf::LimitOption::Default as i32,
        op: protobuf::SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    };
    let text = print_select(&select)?;
    text.strip_prefix("SELECT 1 ORDER BY ").map(str::to_owned).ok_or_else(|| format!("unprintable ORDER BY: {text}"))
}
