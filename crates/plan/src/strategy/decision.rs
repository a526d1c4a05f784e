//! The decisions, in order: refuse what cannot be right, find out what kind of query it is, make its plan.
//!
//! The rule: a strategy is used only where it is proved for the query; the first obstacle that is met makes the projection *whole*, which
//! is always right: `Q' − Q` and `Q − Q'` are written, whatever Q is.

use pg_query::NodeEnum;
use pg_query::protobuf::SelectStmt;

use super::branches::Part;
use super::grouping::{self, Grouping};
use super::top::first_rows;
use super::{aggregation, distinct, hierarchy, limits, windows};
use crate::model::facts::{Function, Identity, Query, Volatility};
use crate::model::obstacle::{Obstacle, Outcome};
use crate::model::plan::{Maintenance, Plan, PlanError, WholePlan};
use crate::model::quote;
use crate::model::row_key::RowKey;
use crate::normalise::{self, Combination};
use crate::syntax::{self, with_large_stack};

/// Functions whose result is the transaction's or statement's time.
const TIME_FUNCTIONS: [&str; 4] = ["now", "transaction_timestamp", "statement_timestamp", "age"];

/// Plans the maintenance of a query.
///
/// # Errors
/// A volatile function, a declared key that the result does not have, a relation that cannot be published, a query without a
/// table. Everything else gets a plan.
pub fn plan(query: &Query) -> Result<Plan, PlanError> {
    refuse_volatile(query)?;
    refuse_unidentified(query)?;
    check_declared_key(query)?;
    if query.relations.is_empty() {
        return Err(PlanError {
            message: "the query reads no table".to_owned(),
            hint: "a projection follows tables; a query without any never changes".to_owned(),
        });
    }
    if query.columns.is_empty() {
        return Err(PlanError { message: "the query has no columns".to_owned(), hint: "select something".to_owned() });
    }
    refuse_system_names(query)?;
    let planned = with_large_stack(|| decide(query)).unwrap_or_else(|reason| Err(Obstacle::new(reason)));
    Ok(with_time(query, planned.unwrap_or_else(|obstacle| whole(query, obstacle))))
}

/// The plan that recomputes everything, for a query that turned out not to be maintainable otherwise; `reason` follows "because".
pub fn plan_whole(query: &Query, reason: &str) -> Plan {
    with_time(query, whole(query, Obstacle::new(reason)))
}

/// The plan with its definition at a time, if it asks for the time.
fn with_time(query: &Query, mut plan: Plan) -> Plan {
    if depends_on_time(query) {
        plan.definition_at = with_large_stack(|| definition_at(query).ok().flatten()).ok().flatten();
    }
    plan
}

fn refuse_volatile(query: &Query) -> Result<(), PlanError> {
    let Some(function) = query.functions.iter().find(|function| function.volatility == Volatility::Volatile) else {
        return Ok(());
    };
    Err(PlanError {
        message: format!(
            "the query calls {}(), which is volatile: its result has no definite value to keep a table equal to",
            function.name
        ),
        hint: "use a stable or immutable function; for the time use now(), which means the snapshot's time".to_owned(),
    })
}

fn refuse_unidentified(query: &Query) -> Result<(), PlanError> {
    let Some(relation) = query.relations.iter().find(|relation| relation.identity == Identity::None) else {
        return Ok(());
    };
    let table = quote::qualified(&relation.schema, &relation.name);
    Err(PlanError {
        message: format!(
            "{} has no primary key and no replica identity: publishing it would make the application's UPDATE and DELETE on it fail",
            relation.label()
        ),
        hint: format!(
            "add a primary key (ALTER TABLE {table} ADD PRIMARY KEY (…)), or ALTER TABLE {table} REPLICA IDENTITY FULL (then a change sends its whole row, twice for an update)"
        ),
    })
}

/// A table cannot have columns of these names.
fn refuse_system_names(query: &Query) -> Result<(), PlanError> {
    const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
    let Some(column) = query.columns.iter().find(|column| SYSTEM_COLUMNS.contains(&column.name.as_str())) else {
        return Ok(());
    };
    Err(PlanError {
        message: format!("the column \"{}\" has the name of a system column, which no table can have", column.name),
        hint: "give it another name with AS".to_owned(),
    })
}

fn check_declared_key(query: &Query) -> Result<(), PlanError> {
    for column in query.declared_key.iter().flatten() {
        let Some(found) = query.columns.iter().find(|output| &output.name == column) else {
            let names: Vec<&str> = query.columns.iter().map(|output| output.name.as_str()).collect();
            return Err(PlanError {
                message: format!("the key column \"{column}\" is not a column of the query"),
                hint: format!("the query's columns are {}", names.join(", ")),
            });
        };
        if !found.hashable {
            return Err(PlanError {
                message: format!("the key column \"{column}\" has type {}, which cannot be hashed", found.type_name),
                hint: "choose other key columns, or leave the key out".to_owned(),
            });
        }
    }
    Ok(())
}

fn decide(query: &Query) -> Outcome<Plan> {
    let mut select =
        syntax::parse_select(&query.sql).map_err(|error| Obstacle::new(format!("it does not parse here: {error}")))?;
    if let Some(function) = opaque_function(query) {
        let reason =
            format!("it calls {}.{}(), which is STABLE and may read tables or the clock", function.schema, function.name);
        let place = syntax::place_of_call(&query.sql, &function.name).map_or(-1, |place| place.try_into().unwrap_or(-1));
        return Err(Obstacle::at(reason, place).instead(
            "write what it reads as a subquery, or declare it IMMUTABLE if its result follows from its arguments alone",
        ));
    }
    let views_used = normalise::inline(&mut select, &query.views)?;
    // With views written out, places are no longer all of the query's own text.
    by_form(query, select).map_err(|obstacle| if views_used { obstacle.without_place() } else { obstacle })
}

/// The query with the time as a parameter.
fn definition_at(query: &Query) -> Outcome<Option<String>> {
    let mut select = syntax::parse_select(&query.sql)?;
    normalise::inline(&mut select, &query.views)?;
    let asks = crate::resolve::fix_time(&mut select)?;
    Ok(if asks { Some(syntax::print_select_pretty(&select)?) } else { None })
}

/// A query with a time in the place of `now()` and its like. As it is if it asks for the time nowhere, or in a way that cannot be replaced.
pub fn at_time(sql: &str, time: &str) -> String {
    let replaced = || -> Outcome<Option<String>> {
        let mut select = syntax::parse_select(sql)?;
        let asks = crate::resolve::fix_time(&mut select)?;
        Ok(if asks { Some(syntax::print_select_pretty(&select)?) } else { None })
    };
    match with_large_stack(replaced) {
        Ok(Ok(Some(template))) => template.replace("$1", &crate::model::quote::literal(time)),
        Ok(Ok(None) | Err(_)) | Err(_) => sql.to_owned(),
    }
}

/// Finds out what kind of SELECT it is.
fn by_form(query: &Query, select: SelectStmt) -> Outcome<Plan> {
    if let Some((maintenance, key, owner)) = hierarchy::maintained(query, &select)? {
        return Ok(finished(query, maintenance, key, owner));
    }
    let (arms, combination) = normalise::arms(select)?;
    let is_union = arms.len() > 1;
    let is_nested = arms.len() > 2 && matches!(combination, Combination::Counted { .. });
    if is_nested && !normalise::is_typed(&arms, &query.relations, &query.columns)? {
        return Err(Obstacle::new("its set operations combine columns of different types, or whose types are not seen")
            .instead("cast the columns of every arm to the types of the result"));
    }
    let (mut parts, mut numbers) = (Vec::new(), Vec::new());
    for (number, arm) in (1..).zip(arms) {
        if let Some(limit) = arm.limit_count.as_ref().or(arm.limit_offset.as_ref()) {
            return Err(of_limit(&arm, location(limit)));
        }
        if arm.from_clause.is_empty() {
            return Err(Obstacle::new("it has no FROM clause"));
        }
        let (arm, filter) = match limits::taken_from(&arm, &query.functions)? {
            Some((windows, limit)) => (windows, Some(limit)),
            None => (arm, None),
        };
        let form = form(&arm, query)?;
        if is_union && form != Form::Plain {
            return Err(Obstacle::new("a branch of its UNION aggregates"));
        }
        for core in normalise::split_full_joins(normalise::without_using(arm, &query.relations)?, &query.relations)? {
            parts.push((Part::new(core, query)?, form, filter.clone()));
            numbers.push(number);
        }
    }
    match parts.as_slice() {
        [(part, Form::Plain, _)] if combination == Combination::All => row_or_copies(query, part),
        _ => {
            let mut grouped = Vec::new();
            for (part, form, filter) in parts {
                let grouping = match form {
                    Form::Window => windows::by_partition(&part, filter)?,
                    Form::Plain | Form::Aggregate | Form::Distinct | Form::DistinctOn => {
                        grouping(query, &part, form, &combination)?
                    }
                };
                grouped.push((part, grouping));
            }
            grouped_plan(query, &grouped, numbers)
        }
    }
}

fn of_limit(select: &SelectStmt, location: i32) -> Obstacle {
    let obstacle = Obstacle::at("it has LIMIT or OFFSET", location);
    if select.limit_option == pg_query::protobuf::LimitOption::WithTies as i32 {
        return obstacle.instead("write LIMIT without WITH TIES, after an ORDER BY that leaves no ties");
    }
    match select.from_clause.as_slice() {
        [item] if matches!(&item.node, Some(NodeEnum::RangeVar(_))) => {
            obstacle.instead("an index on what it is ordered by keeps it cheap: no more rows are read than are wanted")
        }
        _ => obstacle,
    }
}

fn location(node: &pg_query::protobuf::Node) -> i32 {
    match &node.node {
        Some(NodeEnum::AConst(constant)) => constant.location,
        Some(NodeEnum::TypeCast(cast)) => cast.location,
        Some(_) | None => -1,
    }
}

/// What a SELECT does to the rows of its FROM clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Aggregate,
    Distinct,
    DistinctOn,
    Window,
}

fn form(select: &SelectStmt, query: &Query) -> Outcome<Form> {
    let aggregates = syntax::is_aggregate(select, &query.functions)?;
    let windows = syntax::has_window(select)?;
    let on = select.distinct_clause.iter().any(|node| node.node.is_some());
    let set = syntax::place_of_set(select, &query.functions)?;
    let returns_set = set.is_some();
    let beside_set = |reason: &str, what: &str| {
        Obstacle::at(reason, set.unwrap_or(-1))
            .instead(format!("write {what} in a subquery in FROM, and call the function outside of it"))
    };
    match (aggregates, windows, select.distinct_clause.is_empty()) {
        (true, false, true) if returns_set => Err(beside_set("it aggregates beside a function that returns a set", "GROUP BY")),
        (true, false, true) => Ok(Form::Aggregate),
        (false, true, true) if returns_set => {
            Err(beside_set("it has a window beside a function that returns a set", "the window"))
        }
        (false, true, true) => Ok(Form::Window),
        (false, false, true) => Ok(Form::Plain),
        (false, false, false) if on && returns_set => {
            Err(beside_set("it has DISTINCT ON beside a function that returns a set", "DISTINCT ON"))
        }
        (false, false, false) => Ok(if on { Form::DistinctOn } else { Form::Distinct }),
        (true, true, _) => Err(Obstacle::new("it has window functions over aggregates")),
        (_, _, false) => Err(Obstacle::at(
            "it has DISTINCT over aggregates or window functions",
            syntax::place_of_window(select).unwrap_or(-1),
        )
        .instead("compute those in a subquery in FROM, and write DISTINCT outside of it")),
    }
}

fn grouping(query: &Query, part: &Part, form: Form, combination: &Combination) -> Outcome<Grouping> {
    match form {
        Form::Plain => grouping::by_all_columns(part, query, combination),
        Form::Distinct => grouping::by_all_columns(part, query, &Combination::Distinct),
        Form::DistinctOn => distinct::by_distinct_on(part),
        Form::Window => windows::by_partition(part, None),
        Form::Aggregate => aggregation::split(&part.resolved.select, &query.functions),
    }
}

/// A plain SELECT: rows are found by their root's key, or, where that is not among the columns, by all columns.
fn row_or_copies(query: &Query, part: &Part) -> Outcome<Plan> {
    if part.key_outputs.is_empty() {
        let grouping = grouping::by_all_columns(part, query, &Combination::All)?;
        let (plan, key) = grouping::assemble(query, &[(part, grouping)])?;
        return Ok(finished(query, Maintenance::Grouped(Box::new(plan)), key, Vec::new()));
    }
    let owner: Vec<String> = part.key_outputs.iter().map(|&position| query.columns[position].name.clone()).collect();
    let branch = part.branch(part.resolved.select.clone(), query, 0)?;
    let (key, owner) = match (&query.declared_key, part.fans_out) {
        (_, false) => (RowKey::Primary(owner), Vec::new()),
        (Some(declared), true) => (RowKey::Located(declared.clone()), owner),
        (None, true) => (RowKey::Copies { within: owner }, Vec::new()),
    };
    Ok(finished(query, Maintenance::Row(Box::new(branch)), key, owner))
}

fn grouped_plan(query: &Query, parts: &[(Part, Grouping)], arms: Vec<usize>) -> Outcome<Plan> {
    let parts: Vec<(&Part, Grouping)> = parts.iter().map(|(part, grouping)| (part, grouping.clone())).collect();
    let (mut plan, key) = grouping::assemble(query, &parts)?;
    plan.arms = arms;
    Ok(finished(query, Maintenance::Grouped(Box::new(plan)), key, Vec::new()))
}

fn finished(query: &Query, maintenance: Maintenance, key: RowKey, owner: Vec<String>) -> Plan {
    let unique = !matches!(key, RowKey::Copies { .. });
    let determined = query
        .declared_key
        .as_ref()
        .is_none_or(|declared| unique && owner.is_empty() && key.columns().iter().all(|column| declared.contains(column)));
    let declared_key =
        query.declared_key.clone().filter(|declared| !owner.is_empty() || !same_columns(declared, key.columns()) || !unique);
    Plan {
        projection: query.projection.clone(),
        query: query_text(query),
        definition: query_text(query),
        definition_at: None,
        reports_keys: false,
        columns: query.columns.clone(),
        relations: query.relations.clone(),
        key,
        owner,
        declared_key,
        key_needs_check: !determined,
        maintenance,
    }
}

fn query_text(query: &Query) -> String {
    query.sql.trim().trim_end_matches(';').to_owned()
}

fn same_columns(left: &[String], right: &[String]) -> bool {
    left.len() == right.len() && left.iter().all(|column| right.contains(column))
}

/// Whether the result changes with the clock: `now()` and its like, `CURRENT_DATE` and its like.
fn depends_on_time(query: &Query) -> bool {
    query.reads_clock || calls_clock(query)
}

/// A function that somebody wrote in SQL or a procedural language and called STABLE: what it reads is not seen.
fn opaque_function(query: &Query) -> Option<&Function> {
    query
        .functions
        .iter()
        .find(|function| function.interpreted && function.volatility == Volatility::Stable && function.schema != "pg_catalog")
}

fn calls_clock(query: &Query) -> bool {
    query.functions.iter().any(|function| {
        function.schema == "pg_catalog"
            && TIME_FUNCTIONS.contains(&function.name.as_str())
            // age(timestamp, timestamp) does not look at the clock; age(timestamp) subtracts from today.
            && (function.name != "age" || (function.arguments == 1 && function.volatility == Volatility::Stable))
    })
}

fn whole(query: &Query, obstacle: Obstacle) -> Plan {
    let on_schedule = depends_on_time(query) || opaque_function(query).is_some();
    let grouped = with_large_stack(|| grouped_key(query)).ok().flatten();
    let key = query.declared_key.clone().or(grouped).map_or(RowKey::Copies { within: Vec::new() }, RowKey::Located);
    // The text's leading blanks are dropped.
    let dropped = query.sql.len() - query.sql.trim_start().len();
    let position = obstacle.position.and_then(|position| position.checked_sub(dropped));
    let maintenance = Maintenance::Whole(WholePlan {
        reason: obstacle.reason,
        position,
        hint: obstacle.hint,
        on_schedule,
        first: first_rows(query),
    });
    Plan { key_needs_check: query.declared_key.is_some(), declared_key: None, ..finished(query, maintenance, key, Vec::new()) }
}

/// The output columns that are exactly the GROUP BY expressions, all of them: they identify a row of the result.
fn grouped_key(query: &Query) -> Option<Vec<String>> {
    let select = syntax::parse_select(&query.sql).ok()?;
    if select.group_clause.is_empty() || query.functions.iter().any(|function| function.returns_set) {
        return None;
    }
    let outputs: Vec<String> = select
        .target_list
        .iter()
        .map(|target| match &target.node {
            Some(NodeEnum::ResTarget(target)) => target.val.as_deref().and_then(|value| syntax::print_expression(value).ok()),
            Some(_) | None => None,
        })
        .collect::<Option<_>>()?;
    select
        .group_clause
        .iter()
        .map(|group| {
            if matches!(&group.node, Some(NodeEnum::GroupingSet(_) | NodeEnum::AConst(_))) {
                return None;
            }
            let printed = syntax::print_expression(group).ok()?;
            let position = outputs.iter().position(|output| *output == printed)?;
            query.columns.get(position).filter(|column| column.hashable).map(|column| column.name.clone())
        })
        .collect()
}
