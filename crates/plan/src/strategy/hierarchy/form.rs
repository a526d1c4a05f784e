//! The form of a linear WITH RECURSIVE.

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, Node, RangeVar, SelectStmt};

use crate::model::facts::Query;
use crate::model::obstacle::{Obstacle, Outcome};
use crate::normalise::{self, Combination};
use crate::resolve::fix_time;
use crate::syntax::{self, string_of, wrap};

/// A recursion and what is made of its rows.
pub(super) struct Recursion {
    /// Its name.
    pub(super) name: String,
    /// Its columns.
    pub(super) columns: Vec<String>,
    /// What it starts from: the arms without its own rows.
    pub(super) anchors: Vec<SelectStmt>,
    /// The arm that reads its own rows.
    pub(super) step: SelectStmt,
    /// Whether equal rows are one (UNION).
    pub(super) distinct: bool,
    /// What is made of its rows, which it reads by name.
    pub(super) main: SelectStmt,
    /// What they are called there.
    pub(super) alias: String,
}

impl Recursion {
    /// The recursion that a SELECT filters and computes with, and nothing else; `None` if it reads none, or something beside it.
    pub(super) fn of(select: &SelectStmt, query: &Query) -> Outcome<Option<Self>> {
        let [item] = select.from_clause.as_slice() else { return Ok(None) };
        let Some(NodeEnum::RangeSubselect(subselect)) = &item.node else { return Ok(None) };
        let Some(NodeEnum::SelectStmt(inner)) = subselect.subquery.as_ref().and_then(|node| node.node.as_ref()) else {
            return Ok(None);
        };
        let (Some(with), Some(alias)) = (&inner.with_clause, &subselect.alias) else { return Ok(None) };
        let [expression] = with.ctes.as_slice() else { return Ok(None) };
        let Some(NodeEnum::CommonTableExpr(expression)) = &expression.node else { return Ok(None) };
        let at = |reason: &str| Obstacle::at(format!("it has a recursive WITH {reason}"), with.location);
        let main = reading(select, &expression.ctename, alias);
        if !is_plain(&main, query)? || syntax::tally(&main)?.subqueries > 0 {
            return Err(at("below what is more than a filter"));
        }
        if !matches!(fix_time(&mut select.clone()), Ok(false)) {
            return Err(at("and asks for the time"));
        }
        // A row of it would show the columns that are added to it.
        if syntax::whole_rows(&main)?.contains(&alias.aliasname) {
            return Err(at("that is used as a whole row"));
        }
        // Names in our own statements.
        let columns = expression.aliascolnames.iter().filter_map(string_of);
        let renamed = alias.colnames.iter().filter_map(string_of);
        let is_ours =
            |name: &str| ["dirty", "fresh", "d"].contains(&expression.ctename.as_str()) || name.starts_with("lockstep_");
        if syntax::names_of(inner)?.iter().map(String::as_str).chain(columns).chain(renamed).any(is_ours)
            || is_ours(&expression.ctename)
            || is_ours(&alias.aliasname)
        {
            return Err(at("with a name that is taken"));
        }
        let Some(NodeEnum::SelectStmt(rows)) = expression.ctequery.as_ref().and_then(|query| query.node.as_ref()) else {
            return Ok(None);
        };
        let (anchors, step, distinct) = arms(rows, query).map_err(|reason| at(&reason))?;
        let text = |name: &Node| string_of(name).unwrap_or_default().to_owned();
        Ok(Some(Self {
            name: expression.ctename.clone(),
            columns: expression.aliascolnames.iter().map(text).collect(),
            anchors,
            step,
            distinct,
            main,
            alias: alias.aliasname.clone(),
        }))
    }
}

/// A SELECT over the recursion's name in the place of the recursion.
fn reading(select: &SelectStmt, name: &str, alias: &Alias) -> SelectStmt {
    let table = RangeVar {
        relname: name.to_owned(),
        inh: true,
        relpersistence: "p".to_owned(),
        alias: Some(alias.clone()),
        ..RangeVar::default()
    };
    // A table has no order.
    SelectStmt { from_clause: vec![wrap(NodeEnum::RangeVar(table))], sort_clause: Vec::new(), ..select.clone() }
}

/// The anchors, the step, and whether equal rows are one.
fn arms(rows: &SelectStmt, query: &Query) -> Result<(Vec<SelectStmt>, SelectStmt, bool), String> {
    let (Some(left), Some(right), true) = (&rows.larg, &rows.rarg, syntax::is_set_operation(rows)) else {
        return Err("that is no UNION".to_owned());
    };
    if rows.limit_count.is_some() || rows.limit_offset.is_some() {
        return Err("with LIMIT or OFFSET".to_owned());
    }
    let told = |obstacle: Obstacle| format!("of which {}", obstacle.reason);
    let (anchors, combination) = normalise::arms((**left).clone()).map_err(told)?;
    let distinct = !rows.all;
    let fits = match combination {
        Combination::All => true,
        Combination::Distinct => distinct,
        Combination::Counted { .. } => false,
    };
    if !fits {
        return Err("whose anchors are combined otherwise than by its own UNION".to_owned());
    }
    let plain = |arm: SelectStmt| -> Result<SelectStmt, String> {
        if arm.from_clause.is_empty() {
            return Err("that starts from no table".to_owned());
        }
        if !is_plain(&arm, query).map_err(told)? {
            return Err("an arm of which does more than filter and join".to_owned());
        }
        let written = normalise::without_using(arm, &query.relations).map_err(told)?;
        let mut cores = normalise::split_full_joins(written, &query.relations).map_err(told)?;
        match (cores.pop(), cores.is_empty()) {
            (Some(core), true) => Ok(core),
            (Some(_) | None, _) => Err("with a full join".to_owned()),
        }
    };
    let anchors = anchors.into_iter().map(plain).collect::<Result<Vec<_>, _>>()?;
    Ok((anchors, plain((**right).clone())?, distinct))
}

/// Whether each row of a SELECT is one combination of its tables' rows.
fn is_plain(select: &SelectStmt, query: &Query) -> Outcome<bool> {
    Ok(!syntax::is_set_operation(select)
        && select.values_lists.is_empty()
        && select.distinct_clause.is_empty()
        && select.limit_count.is_none()
        && select.limit_offset.is_none()
        && !syntax::is_aggregate(select, &query.functions)?
        && !syntax::has_window(select)?
        && !syntax::returns_set(select, &query.functions)?)
}
