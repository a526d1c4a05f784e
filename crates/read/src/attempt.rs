//! One source asked once: rows, total, facets and version of one snapshot.

use std::time::Duration;

use futures_util::future::join_all;
use lockstep_plan::quote;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::answer::{Answer, Request};
use crate::condition::Operator;
use crate::cursor;
use crate::error::{ReadError, SourceFault};
use crate::pool::{Borrowed, Pool, Slots};
use crate::query::Query;
use crate::select::{Statement, Statements, statements};
use crate::settings::{Model, ReadSettings, Source};
use crate::table::Table;
use crate::totals::Totals;
use crate::version::{Version, tag, version, view_version};

/// One source asked.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) model: &'a Model,
    pub(crate) table: &'a Table,
    pub(crate) settings: &'a ReadSettings,
    pub(crate) request: &'a Request,
    pub(crate) source: Source,
    /// Even if it is stale or set aside.
    pub(crate) whatever: bool,
    /// How long it may take.
    pub(crate) share: Duration,
}

/// What is asked of a source.
struct Wanted {
    /// Counting its rows.
    counting: Statements,
    /// The same over its cube, if it has one that can be asked.
    summing: Option<Statements>,
}

/// Why a source gave no answer.
pub(crate) enum Obstacle {
    /// No source will.
    Request(ReadError),
    /// Another one may.
    Source(SourceFault),
}

/// Why a transaction gave no answer.
enum Trouble {
    /// The source is not fit; the transaction is open.
    Unfit(SourceFault),
    /// An error before the COMMIT was sent; the transaction is open.
    Begun(tokio_postgres::Error),
    /// An error in front of the COMMIT that was sent with it; the transaction has ended.
    Ended(tokio_postgres::Error),
}

/// What can be asked.
pub(crate) struct Sources {
    pub(crate) target: Pool,
    pub(crate) source: Option<Pool>,
    /// Those that may compute over source tables at the same time, and how long the others wait.
    pub(crate) costly: Slots,
    pub(crate) costly_wait: Duration,
    pub(crate) totals: Totals,
}

impl Sources {
    pub(crate) fn pool_of(&self, model: &Model, source: Source) -> &Pool {
        match (source, &self.source) {
            (Source::Tables, Some(pool)) if !model.on_target => pool,
            (Source::Projection | Source::View | Source::Tables, _) => &self.target,
        }
    }

    /// Asks the attempt's source.
    pub(crate) async fn ask(&self, attempt: Attempt<'_>) -> Result<Answer, Obstacle> {
        let Attempt { model, table, settings, request, source, .. } = attempt;
        let from = match source {
            Source::Projection => quote::qualified(&model.schema, &model.name),
            Source::View => quote::qualified(&model.schema, &format!("mv_{}", model.name)),
            Source::Tables => format!("(\n{}\n)", model.sql.trim()),
        };
        let made = |cube| statements(&request.query, table, &from, cube, &settings.text_config).map_err(Obstacle::Request);
        let mut wanted = Wanted { counting: made(None)?, summing: None };
        if let (Source::Projection, Some(cube)) = (source, &model.cube) {
            wanted.summing = Some(made(Some((cube, &quote::qualified(&model.schema, &cube.name))))?);
        }
        // Counting is most of what a list costs, where there is no cube.
        let is_summed = wanted.summing.as_ref().is_some_and(|summing| summing.total != wanted.counting.total);
        let may_be_kept = !is_summed && !settings.total_for.is_zero() && request.min_lsn.is_none();
        let counted = wanted.counting.total.clone().filter(|_| may_be_kept);
        let kept = counted.as_ref().and_then(|statement| self.totals.get(statement, settings.total_for));
        if kept.is_some() {
            wanted.counting.total = None;
            wanted.summing.iter_mut().for_each(|summing| summing.total = None);
        }
        let _slot = match source {
            Source::Tables => {
                let waiting = tokio::time::timeout(self.costly_wait, self.costly.clone().acquire_owned());
                Some(waiting.await.map_err(|_| Obstacle::Source(SourceFault::Busy))?)
            }
            Source::Projection | Source::View => None,
        };
        let session = Borrowed::new(self.pool_of(model, source).get().await.map_err(Obstacle::Source)?);
        let answer = one_snapshot(session.session(), &attempt, &wanted).await;
        match answer {
            Ok(mut answer) => {
                session.give_back();
                match (kept, counted, answer.total) {
                    (Some(total), ..) => answer.total = Some(total),
                    (None, Some(statement), Some(total)) => self.totals.keep(statement, total),
                    (None, ..) => {}
                }
                Ok(answer)
            }
            Err(Trouble::Unfit(fault)) => {
                roll_back(session).await;
                Err(Obstacle::Source(fault))
            }
            Err(Trouble::Begun(error)) => {
                roll_back(session).await;
                Err(Obstacle::Source(SourceFault::of(&error)))
            }
            Err(Trouble::Ended(error)) => {
                let obstacle = explain(session.session(), &request.query, &wanted.counting, &error).await;
                session.give_back();
                Err(obstacle)
            }
        }
    }
}

/// Whose fault an error is: the request's, if it is about one of its values.
async fn explain(client: &Client, request: &Query, wanted: &Statements, error: &tokio_postgres::Error) -> Obstacle {
    let code = lockstep_connect::sqlstate(error).map(tokio_postgres::error::SqlState::code).unwrap_or_default();
    // Whatever does not concern the server may concern a value, such as one that a domain does not allow.
    let of_the_server = ["08", "25", "40", "53", "55", "57", "58", "XX"].iter().any(|class| code.starts_with(class));
    if code.is_empty() || of_the_server || ["42P01", "42703", "3F000", "42501"].contains(&code) {
        return Obstacle::Source(SourceFault::of(error));
    }
    for typed in &wanted.typed {
        let sql = format!("SELECT $1::text::{}", typed.type_name);
        if client.query_typed(&sql, &[(&typed.value, Type::TEXT)]).await.is_err() {
            let what = if typed.parameter == "after" {
                "not a cursor of this order".to_owned()
            } else {
                format!("not a value of type {}", typed.type_name)
            };
            return Obstacle::Request(ReadError::bad(&typed.parameter, what));
        }
    }
    if code == "22025"
        && let Some(like) =
            request.conditions.iter().find(|condition| matches!(condition.operator, Operator::Like | Operator::Ilike))
    {
        return Obstacle::Request(ReadError::bad(
            &like.parameter,
            "the pattern ends in the middle of an escape: write \\\\ for a backslash",
        ));
    }
    match (code, wanted.typed.first()) {
        ("42883", Some(typed)) => Obstacle::Request(ReadError::bad(
            &typed.parameter,
            format!("values of type {} cannot be compared so", typed.type_name),
        )),
        ("42883", None) => {
            let parameter = if request.facets.is_empty() { "order" } else { "facets" };
            Obstacle::Request(ReadError::bad(parameter, "values of such a column cannot be compared so"))
        }
        // The source's own: a row whose expression fails while the defining query is computed.
        _ => Obstacle::Source(SourceFault::Refused),
    }
}

async fn roll_back(session: Borrowed) {
    if session.session().batch_execute("ROLLBACK").await.is_ok() {
        session.give_back();
    }
}

/// Runs everything in one transaction, so that rows, total, facets and version belong together; in as few round trips as can be.
async fn one_snapshot(client: &Client, attempt: &Attempt<'_>, wanted: &Wanted) -> Result<Answer, Trouble> {
    let Attempt { model, settings, request, source, whatever, share, .. } = *attempt;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TimeZone = {}; SET LOCAL statement_timeout = {}",
        quote::literal(&model.time_zone),
        share.as_millis().max(1)
    );
    let looking = async {
        match source {
            Source::Projection => version(client, model).await.map(Some),
            Source::View => view_version(client, model).await.map(Some),
            // What it reads is as old as what follows from it.
            Source::Tables if model.on_target => version(client, model).await.map(Some),
            Source::Tables => Ok(None),
        }
    };
    let (begun, version) = tokio::join!(biased; client.batch_execute(&begin), looking);
    begun.map_err(Trouble::Begun)?;
    let mut answer = Answer { source: Some(source), version: Version::default(), ..Answer::default() };
    let mut has_cube = false;
    match (version.map_err(Trouble::Begun)?, source) {
        (Some(found), Source::Projection) => {
            if found.is_faulted && !(found.is_built && whatever) {
                return Err(Trouble::Unfit(SourceFault::SetAside));
            }
            if !found.is_built {
                return Err(Trouble::Unfit(SourceFault::NotBuilt));
            }
            if found.is_stale(settings) && !whatever {
                return Err(Trouble::Unfit(SourceFault::Stale));
            }
            has_cube = found.has_cube;
            answer.version = found.version;
            answer.version.tag = tag(&answer.version.tag, &request.identity, model, settings, attempt.table);
        }
        (Some(found), _) => answer.version = Version { tag: String::new(), ..found.version },
        (None, _) => answer.version.staleness_seconds = Some(0.0),
    }
    let wanted = wanted.summing.as_ref().filter(|_| has_cube).unwrap_or(&wanted.counting);
    let total = async {
        match &wanted.total {
            Some(statement) => run(client, statement).await.map(Some),
            None => Ok(None),
        }
    };
    let facets = join_all(wanted.facets.iter().map(|(_, statement)| run(client, statement)));
    // All are sent before the first is awaited: the COMMIT is behind them.
    let (rows, total, facets, committed) =
        tokio::join!(biased; run(client, &wanted.rows), total, facets, client.batch_execute("COMMIT"));
    let rows = rows.map_err(Trouble::Ended)?;
    answer.total = total.map_err(Trouble::Ended)?.as_deref().and_then(|rows| rows.first()).map(counted);
    for ((name, _), found) in wanted.facets.iter().zip(facets) {
        let found = found.map_err(Trouble::Ended)?;
        answer.facets.push((name.clone(), found.first().map(|row| row.get(0)).unwrap_or_default()));
    }
    committed.map_err(Trouble::Ended)?;
    if rows.len() > wanted.limit {
        let values: Vec<Option<String>> = rows[wanted.limit - 1].get(1);
        answer.next = (!values.is_empty()).then(|| cursor::encode(&values));
    }
    answer.rows = rows.iter().take(wanted.limit).map(|row| row.get(0)).collect();
    Ok(answer)
}

pub(crate) async fn run(client: &Client, statement: &Statement) -> Result<Vec<Row>, tokio_postgres::Error> {
    let values: Vec<(&(dyn ToSql + Sync), Type)> =
        statement.values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    client.query_typed(&statement.sql, &values).await
}

/// A count, or what the planner expects.
fn counted(row: &Row) -> i64 {
    if let Ok(count) = row.try_get::<_, i64>(0) {
        return count;
    }
    let plan: serde_json::Value = row.try_get(0).unwrap_or_default();
    plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_i64).unwrap_or_default()
}
