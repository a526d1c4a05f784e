//! The decisions, in order: refuse what cannot be right, find out what kind of query it is, make its plan.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, ResTarget, SelectStmt, SetOperation};

use crate::aggregate;
use crate::facts::{Function, FunctionKind, Identity, Query, Relation, Volatility};
use crate::lookup::{self, Paths};
use crate::plan::{AggregatePlan, Maintenance, Plan, PlanError, RelationPlan, RelationRole, Role, Root, RowPlan, WholePlan};
use crate::shape::{self, Obstacle, Outcome, Shape};
use crate::sql::{RowKey, StateTable};
use crate::syntax::{self, print_select_pretty, with_large_stack};
use crate::{quote, trace};

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
    let planned = with_large_stack(|| decide(query)).unwrap_or_else(|reason| Err(Obstacle(reason)));
    Ok(match planned {
        Ok(plan) => plan,
        Err(Obstacle(reason)) => whole(query, reason),
    })
}

/// The plan that recomputes everything, for a query that turned out not to be maintainable otherwise; `reason` follows "because".
pub fn plan_whole(query: &Query, reason: &str) -> Plan {
    whole(query, reason.to_owned())
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
            "add a primary key (ALTER TABLE {table} ADD PRIMARY KEY (…)), or ALTER TABLE {table} REPLICA IDENTITY FULL (then its projections are recomputed as a whole)"
        ),
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
    let select = syntax::parse_select(&query.sql).map_err(|error| Obstacle(format!("it does not parse here: {error}")))?;
    refuse_unsupported_functions(query)?;
    refuse_unsupported_clauses(&select)?;
    for target in &select.target_list {
        syntax::subtree_is_known(target)?;
    }
    for clause in [&select.where_clause, &select.having_clause].into_iter().flatten() {
        syntax::subtree_is_known(clause)?;
    }
    let shape = shape::analyse(select, &query.relations)?;
    if depends_on_time(query) {
        return Err(Obstacle("its result depends on the time".to_owned()));
    }
    if let Some(function) = opaque_function(query) {
        return Err(Obstacle(format!(
            "it calls {}.{}(), which is STABLE and may read tables or the clock",
            function.schema, function.name
        )));
    }
    let paths = lookup::find(&shape, &query.relations)?;
    if aggregate::is_aggregate(&shape.select, &query.functions)? {
        aggregate_plan(query, &shape, &paths)
    } else {
        row_plan(query, &shape, &paths)
    }
}

fn refuse_unsupported_functions(query: &Query) -> Outcome<()> {
    if let Some(function) = query.functions.iter().find(|function| function.kind == FunctionKind::Window) {
        return Err(Obstacle(format!("it calls the window function {}()", function.name)));
    }
    if let Some(function) = query.functions.iter().find(|function| function.returns_set) {
        return Err(Obstacle(format!("it calls {}(), which returns a set", function.name)));
    }
    Ok(())
}

fn refuse_unsupported_clauses(select: &SelectStmt) -> Outcome<()> {
    if !select.distinct_clause.is_empty() {
        return Err(Obstacle("it has DISTINCT".to_owned()));
    }
    if select.limit_count.is_some() || select.limit_offset.is_some() {
        return Err(Obstacle("it has LIMIT or OFFSET".to_owned()));
    }
    if select.from_clause.is_empty() && select.op == SetOperation::SetopNone as i32 {
        return Err(Obstacle("it has no FROM clause".to_owned()));
    }
    Ok(())
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

fn whole(query: &Query, reason: String) -> Plan {
    let uses_time = depends_on_time(query) || opaque_function(query).is_some();
    let grouped = with_large_stack(|| grouped_key(query)).ok().flatten();
    let key = query.declared_key.clone().or(grouped).map_or(RowKey::Multiset, RowKey::Located);
    Plan {
        projection: query.projection.clone(),
        query: query.sql.trim().trim_end_matches(';').to_owned(),
        columns: query.columns.clone(),
        relations: query
            .relations
            .iter()
            .map(|relation| RelationPlan {
                relation: relation.clone(),
                roles: vec![RelationRole {
                    alias: relation.name.clone(),
                    role: Role::Whole,
                    reason: reason.clone(),
                    trace: None,
                    missing_index: None,
                }],
            })
            .collect(),
        key_needs_check: query.declared_key.is_some(),
        key,
        declared_key: None,
        maintenance: Maintenance::Whole(WholePlan { reason, on_schedule: uses_time }),
    }
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

fn row_plan(query: &Query, shape: &Shape, paths: &Paths) -> Outcome<Plan> {
    let root = root(query, shape, paths);
    let mut select = shape.select.clone();
    select.sort_clause.clear();
    let key = root_key_outputs(query, &select, shape, paths, &root)?;
    let row_query = print_select_pretty(&select)?;
    let dirty_row_query = print_select_pretty(&restricted(select, shape, paths, &root)?)?;
    let declared_key = query.declared_key.clone().filter(|declared| !same_columns(declared, &key));
    let determined = query.declared_key.as_ref().is_none_or(|declared| key.iter().all(|column| declared.contains(column)));
    Ok(Plan {
        projection: query.projection.clone(),
        query: query.sql.trim().trim_end_matches(';').to_owned(),
        columns: query.columns.clone(),
        relations: relation_plans(query, shape, paths),
        key: RowKey::Primary(key),
        key_needs_check: !determined,
        declared_key,
        maintenance: Maintenance::Row(RowPlan { root, row_query, dirty_row_query }),
    })
}

fn same_columns(left: &[String], right: &[String]) -> bool {
    left.len() == right.len() && left.iter().all(|column| right.contains(column))
}

fn aggregate_plan(query: &Query, shape: &Shape, paths: &Paths) -> Outcome<Plan> {
    let root = root(query, shape, paths);
    let split = aggregate::split(&shape.select, &query.functions)?;
    let outputs: Vec<String> = split
        .group_outputs
        .iter()
        .zip(&split.groups)
        .map(|(position, group)| match position {
            Some(position) => Ok(query.columns[*position].name.clone()),
            None => Err(Obstacle(format!("the group expression {group} is not among its columns"))),
        })
        .collect::<Outcome<_>>()?;
    if let Some(column) = query.columns.iter().find(|column| outputs.contains(&column.name) && !column.hashable) {
        return Err(Obstacle(format!("the group column {} has type {}, which cannot be hashed", column.name, column.type_name)));
    }
    let key_columns: Vec<String> = (1..=root.key.len()).map(|n| format!("k{n}")).collect();
    let group_columns: Vec<String> = (0..split.groups.len()).map(aggregate::group_column).collect();
    let argument_columns: Vec<String> = (0..split.arguments.len()).map(aggregate::argument_column).collect();
    let select = contribution_select(shape, paths, &root, &split)?;
    let contribution_query = print_select_pretty(&select)?;
    let dirty_contribution_query = print_select_pretty(&restricted(select, shape, paths, &root)?)?;
    let contributions = StateTable {
        name: format!("{}_contribution", query.projection),
        purpose: "one row for each root row that takes part, before aggregation".to_owned(),
        columns: key_columns.iter().chain(&group_columns).chain(&argument_columns).cloned().collect(),
        key: key_columns,
        located_by: group_columns.clone(),
    };
    let determined = query.declared_key.as_ref().is_none_or(|declared| outputs.iter().all(|column| declared.contains(column)));
    let declared_key = query.declared_key.clone().filter(|declared| !same_columns(declared, &outputs));
    Ok(Plan {
        projection: query.projection.clone(),
        query: query.sql.trim().trim_end_matches(';').to_owned(),
        columns: query.columns.clone(),
        relations: relation_plans(query, shape, paths),
        key: if outputs.is_empty() { RowKey::SingleRow } else { RowKey::Located(outputs) },
        key_needs_check: !determined,
        declared_key,
        maintenance: Maintenance::Aggregate(Box::new(AggregatePlan {
            root,
            contribution_query,
            dirty_contribution_query,
            contributions,
            group_columns,
            dependent_columns: split.dependents,
            select_list: split.select_list,
            having: split.having,
        })),
    })
}

fn root(query: &Query, shape: &Shape, paths: &Paths) -> Root {
    let index = shape.occurrences[paths.root].relation;
    let relation = &query.relations[index];
    let key = relation
        .identity_columns()
        .iter()
        .map(|column| {
            (column.clone(), relation.column(column).map_or_else(|| "text".to_owned(), |found| found.type_name.clone()))
        })
        .collect();
    Root { relation: index, schema: relation.schema.clone(), name: relation.name.clone(), key }
}

/// The output columns that are exactly the root's identity columns.
fn root_key_outputs(query: &Query, select: &SelectStmt, shape: &Shape, paths: &Paths, root: &Root) -> Outcome<Vec<String>> {
    let alias = &shape.occurrences[paths.root].alias;
    let printed: Vec<String> = select
        .target_list
        .iter()
        .map(|target| match &target.node {
            Some(NodeEnum::ResTarget(target)) => target.val.as_deref().map_or(Ok(String::new()), syntax::print_expression),
            Some(_) | None => Ok(String::new()),
        })
        .collect::<Result<_, _>>()?;
    root.key
        .iter()
        .map(|(column, _)| {
            let wanted = syntax::print_expression(&syntax::column_reference(alias, column))?;
            let position = printed.iter().position(|text| *text == wanted).ok_or_else(|| {
                Obstacle(format!(
                    "{}.{}'s key column {column} is not among its columns, so nothing ties a row to its root",
                    root.schema, root.name
                ))
            })?;
            Ok(query.columns[position].name.clone())
        })
        .collect()
}

/// The SELECT restricted to the root keys of the CTE `dirty`.
fn restricted(mut select: SelectStmt, shape: &Shape, paths: &Paths, root: &Root) -> Outcome<SelectStmt> {
    let alias = quote::identifier(&shape.occurrences[paths.root].alias);
    let columns: Vec<String> = root.key.iter().map(|(column, _)| format!("{alias}.{}", quote::identifier(column))).collect();
    let keys: Vec<String> = (1..=root.key.len()).map(|n| format!("dirty.k{n}")).collect();
    let restriction = syntax::parse_expression(&format!("({}) IN (SELECT {} FROM dirty)", columns.join(", "), keys.join(", ")))?;
    select.where_clause = Some(syntax::and(select.where_clause.take(), restriction));
    Ok(select)
}

fn contribution_select(shape: &Shape, paths: &Paths, root: &Root, split: &aggregate::Split) -> Outcome<SelectStmt> {
    let alias = quote::identifier(&shape.occurrences[paths.root].alias);
    let keys = root
        .key
        .iter()
        .enumerate()
        .map(|(n, (column, _))| (format!("k{}", n + 1), format!("{alias}.{}", quote::identifier(column))));
    let groups = split.groups.iter().enumerate().map(|(n, text)| (aggregate::group_column(n), text.clone()));
    let arguments = split.arguments.iter().enumerate().map(|(n, text)| (aggregate::argument_column(n), text.clone()));
    let mut select = shape.select.clone();
    select.sort_clause.clear();
    select.group_clause.clear();
    select.having_clause = None;
    select.target_list = keys
        .chain(groups)
        .chain(arguments)
        .map(|(name, text)| {
            let value = syntax::parse_expression(&text)?;
            let target = ResTarget { name, val: Some(Box::new(value)), ..ResTarget::default() };
            Ok(syntax::wrap(NodeEnum::ResTarget(Box::new(target))))
        })
        .collect::<Outcome<Vec<Node>>>()?;
    Ok(select)
}

fn relation_plans(query: &Query, shape: &Shape, paths: &Paths) -> Vec<RelationPlan> {
    query
        .relations
        .iter()
        .enumerate()
        .map(|(index, relation)| {
            let roles = (0..shape.occurrences.len())
                .filter(|&occurrence| shape.occurrences[occurrence].relation == index)
                .map(|occurrence| role(relation, occurrence, shape, paths, &query.relations))
                .collect();
            RelationPlan { relation: relation.clone(), roles }
        })
        .collect()
}

fn role(relation: &Relation, occurrence: usize, shape: &Shape, paths: &Paths, relations: &[Relation]) -> RelationRole {
    let alias = shape.occurrences[occurrence].alias.clone();
    match paths.hop(occurrence) {
        None => RelationRole {
            alias,
            role: Role::Root,
            reason: format!("its key ({}) is the root key", relation.identity_columns().join(", ")),
            trace: None,
            missing_index: None,
        },
        Some(hop) => RelationRole {
            alias,
            role: Role::Lookup,
            reason: format!(
                "read only by its key: {}",
                hop.equalities
                    .iter()
                    .map(|equality| format!("{} = {}", equality.column, equality.value))
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
            trace: Some(trace::query(paths, hop, shape, relations)),
            missing_index: trace::missing_index(hop, shape, relations),
        },
    }
}
