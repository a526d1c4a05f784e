//! The schedule behind the read models: materialized views of the defining queries, and full verifications.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use croner::Cron;
use jiff::Zoned;
use lockstep_backstop::{Claim, View, verify};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_plan::RowKey;
use lockstep_plan::{Maintenance, indexes_for, quote};
use lockstep_preflight::Planned;
use lockstep_refresh::{GroupCommand, SuspectKind, Suspects};
use tokio::sync::oneshot;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::verification::drift;
use crate::verification::{GroupHandle, Verifier, Wish};

/// Rows that differ between a view and its projection are handed on up to this number.
const SUSPECTS_MAX: usize = 10_000;

/// How long the repair of suspects may take.
const REPAIR_MAX: Duration = Duration::from_mins(30);

/// How often the schedules are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often the ages of views and verifications are told, in ticks.
const TELL_EVERY: u32 = 5;

/// A projection that the backstop looks after.
#[derive(Debug, Clone)]
pub(crate) struct Backed {
    projection: String,
    group: String,
    time_zone: String,
    columns: Vec<String>,
    key: Vec<String>,
    /// How a row that differs is refreshed.
    suspect: (SuspectKind, Vec<String>),
    /// Its values change with the time alone: the view has those of another time, and differs without being wrong.
    by_clock: bool,
    /// None where there can be no view: then a verification does its part.
    view: Option<View>,
}

/// The projections that the backstop looks after.
pub(crate) fn backed(config: &Config, planned: &[Planned], fingerprint: impl Fn(&Planned) -> String) -> Vec<Backed> {
    let wanted = |planned: &&Planned| {
        let configured = config.projections.iter().find(|projection| projection.name == planned.plan.projection);
        planned.part_of.is_none() && configured.is_some_and(|projection| projection.backstop)
    };
    planned.iter().filter(wanted).map(|planned| one(config, planned, &fingerprint(planned))).collect()
}

fn one(config: &Config, planned: &Planned, fingerprint: &str) -> Backed {
    let plan = &planned.plan;
    let name = format!("mv_{}", plan.projection);
    let columns: Vec<String> = plan.columns.iter().map(|column| column.name.clone()).collect();
    let unique = match (&plan.declared_key, &plan.key) {
        (Some(key), _) | (None, RowKey::Primary(key) | RowKey::Located(key)) => key.clone(),
        // There is one row, so any column will do.
        (None, RowKey::SingleRow) => columns.iter().take(1).cloned().collect(),
        (None, RowKey::Copies { .. }) => Vec::new(),
    };
    let indexes = planned.indexes.as_deref().unwrap_or_default();
    let indexes = indexes_for(indexes, &plan.projection, &planned.schema, &name, "mv_").unwrap_or_else(|error| {
        tracing::warn!(projection = plan.projection, error, "its view gets no other indexes");
        Vec::new()
    });
    let views = config.target.is_none() && config.backstop.as_ref().is_some_and(|backstop| backstop.refresh.is_some());
    let view = (views && !unique.is_empty()).then(|| View {
        schema: planned.schema.clone(),
        name,
        definition: plan.definition.clone(),
        unique: unique.clone(),
        indexes,
        readers: config.readers.clone(),
        fingerprint: fingerprint.to_owned(),
    });
    Backed {
        projection: plan.projection.clone(),
        group: planned.group.clone(),
        time_zone: planned.time_zone.clone(),
        key: if unique.is_empty() { columns.clone() } else { unique },
        columns,
        suspect: lockstep_refresh::rows_refreshed(plan),
        by_clock: matches!(&plan.maintenance, Maintenance::Whole(whole) if whole.on_schedule),
        view,
    }
}

/// Drops views of projections that the backstop no longer looks after: nobody refreshes them.
///
/// # Errors
/// A statement failed: something depends on a view.
pub(crate) async fn drop_unwanted(target: &Session, schema: &str, backed: &[Backed]) -> anyhow::Result<()> {
    let wanted: Vec<&str> = backed.iter().filter_map(|backed| backed.view.as_ref()).map(|view| view.name.as_str()).collect();
    let rows = target
        .query(
            "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.relkind = 'm' AND n.nspname = $1 AND obj_description(c.oid, 'pg_class') LIKE 'lockstep backstop %'
               AND c.relname <> ALL ($2)",
            &[&schema, &wanted],
        )
        .await?;
    for row in &rows {
        let view: &str = row.get(0);
        match View::drop_named(target, schema, view).await {
            // Whoever reads it all the time keeps it until the next set-up.
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tracing::warn!(view, "a view that is no longer wanted stays: somebody reads it");
            }
            dropped => dropped?,
        }
    }
    Ok(())
}

/// Follows the schedules; never returns. Runs wait for each other, so none is started twice.
pub(crate) async fn follow(verifier: &Verifier, backed: Arc<Vec<Backed>>) {
    let schedules = verifier.config.backstop.as_ref();
    let refreshes = schedules.and_then(|schedules| schedules.refresh.as_ref());
    let verifications = schedules.and_then(|schedules| schedules.verify.as_ref());
    let mut next_refresh = next(refreshes);
    let mut next_verification = next(verifications);
    let mut telling = None;
    let mut made = BTreeSet::new();
    for tick in 0_u32.. {
        tokio::time::sleep(TICK).await;
        if tick.is_multiple_of(TELL_EVERY) {
            tell_ages(verifier, &backed, &mut telling).await;
            make_missing(verifier, &backed, telling.as_deref(), &mut made).await;
        }
        let now = Zoned::now();
        if next_refresh.as_ref().is_some_and(|at| *at <= now) {
            refresh_all(verifier, &backed).await;
            next_refresh = next(refreshes);
        }
        if next_verification.as_ref().is_some_and(|at| *at <= now) {
            let names = backed.iter().map(|backed| backed.projection.clone()).collect();
            verify_all(verifier, names).await;
            next_verification = next(verifications);
        }
    }
}

/// Makes views that are not there, or are of another definition, without waiting for their schedule: they stand behind their projections.
/// Each is tried once; what fails comes again with the schedule.
async fn make_missing(verifier: &Verifier, backed: &[Backed], session: Option<&Client>, tried: &mut BTreeSet<String>) {
    let Some(session) = session else { return };
    for backed in backed {
        let Some(view) = backed.view.as_ref().filter(|_| !tried.contains(&backed.projection)) else { continue };
        // While the projection is being built, it is not for its view to take the server's time.
        let live = "SELECT FROM lockstep.projection WHERE name = $1 AND state = 'live'";
        if !matches!(session.query_opt(live, &[&backed.projection]).await, Ok(Some(_))) {
            continue;
        }
        tried.insert(backed.projection.clone());
        if let Ok(false) = view.is_there(session).await
            && let Err(error) = refresh(verifier, backed, view).await
        {
            tracing::error!(view = view.name, error = format!("{error:#}"), "backstop");
        }
    }
}

/// The next time of a schedule, in UTC.
fn next(schedule: Option<&Cron>) -> Option<Zoned> {
    let now = Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC);
    schedule.and_then(|schedule| schedule.find_next_occurrence(&now, false).ok())
}

async fn verify_all(verifier: &Verifier, names: Vec<String>) {
    if names.is_empty() {
        return;
    }
    let wish = Wish { names, sample: None, repair: true, show_values: false };
    if let Err(error) = verifier.run(&wish, None).await {
        tracing::error!(error = format!("{error:#}"), "scheduled verification");
    }
}

async fn refresh_all(verifier: &Verifier, backed: &[Backed]) {
    let mut without_view = Vec::new();
    for backed in backed {
        let Some(view) = &backed.view else {
            without_view.push(backed.projection.clone());
            continue;
        };
        if let Err(error) = refresh(verifier, backed, view).await {
            tracing::error!(view = view.name, error = format!("{error:#}"), "backstop");
        }
    }
    // Where there can be no view, because the databases are two or nothing identifies a row, the whole query is computed at a snapshot.
    verify_all(verifier, without_view).await;
}

/// How often a view's refresh is begun that gives way to the application.
const TRIES: u32 = 4;

/// Pause before it is begun again; longer each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

struct Run {
    rows: i64,
    suspects: u64,
    drift: i64,
}

/// Refreshes a view, compares it with its projection, has suspects refreshed, and logs it all.
async fn refresh(verifier: &Verifier, backed: &Backed, view: &View) -> anyhow::Result<()> {
    let log = Session::open(verifier.config.target_settings(), "lockstep backstop").await.context("target")?;
    let began = Instant::now();
    let began_at: String = log.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0);
    let result = refresh_in_turn(verifier, backed, view).await;
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    let (rows, suspects, drift, error) = match &result {
        Ok(run) => (Some(run.rows), i64::try_from(run.suspects).ok(), Some(run.drift), None),
        Err(error) => (None, None, None, Some(format!("{error:#}"))),
    };
    log.execute(
        "INSERT INTO lockstep.mv_refresh_log (view, projection, last_refresh_at, duration_ms, row_count, success, error, suspects, drift)
         VALUES ($1, $2, $3::text::timestamptz, $4, $5, $6, $7, $8, $9)",
        &[&view.name, &backed.projection, &began_at, &milliseconds, &rows, &result.is_ok(), &error, &suspects, &drift],
    )
    .await?;
    log.execute("DELETE FROM lockstep.mv_refresh_log WHERE last_refresh_at < clock_timestamp() - interval '90 days'", &[])
        .await?;
    let outcome = if result.is_ok() { "success" } else { "error" };
    if verifier.config.products() == Some(&backed.projection) {
        // As the migration plan has them.
        metrics::histogram!("product_search_mv_refresh_duration_ms").record(milliseconds);
        if result.is_err() {
            let labels = [("source", "view"), ("error_type", "refresh_failed")];
            metrics::counter!("product_search_query_errors_total", &labels).increment(1);
        }
    }
    if result.is_ok() {
        tell_readers(&log, backed, view).await;
    }
    metrics::counter!("lockstep_mv_refresh_total", "view" => view.name.clone(), "outcome" => outcome).increment(1);
    metrics::histogram!("lockstep_mv_refresh_duration_seconds", "view" => view.name.clone()).record(milliseconds / 1000.0);
    if let Ok(run) = &result {
        let drift = u64::try_from(run.drift).unwrap_or(0);
        if drift > 0 {
            drift::repaired(&backed.projection, drift);
        }
        tracing::info!(
            view = view.name,
            rows = run.rows,
            suspects = run.suspects,
            drift,
            milliseconds,
            "materialized view refreshed"
        );
    }
    result.map(drop)
}

/// What gives way to the application is tried again; not for ever, because the next one is due by schedule.
async fn refresh_in_turn(verifier: &Verifier, backed: &Backed, view: &View) -> anyhow::Result<Run> {
    for tries in 1..TRIES {
        let before = verifier.giving_way.count();
        match refresh_and_compare(verifier, backed, view).await {
            Err(error) if verifier.giving_way.count() > before => {
                tracing::info!(view = view.name, error = format!("{error:#}"), "gave way to the application; trying again");
                tokio::time::sleep(AGAIN_AFTER * tries).await;
            }
            result => return result,
        }
    }
    refresh_and_compare(verifier, backed, view).await.context("it gives way to the application again and again")
}

/// For those who keep in memory what they read from the view. A full queue of notifications is no fault of the view's.
async fn tell_readers(log: &Session, backed: &Backed, view: &View) {
    let notify = "SELECT pg_notify('lockstep_' || $1, json_build_object('view', $2::text)::text)
                  WHERE (SELECT pg_notification_queue_usage()) < 0.5";
    if let Err(error) = log.execute(notify, &[&backed.projection, &view.name]).await {
        tracing::warn!(view = view.name, error = %lockstep_connect::describe(&error), "telling that the view was refreshed");
    }
}

async fn refresh_and_compare(verifier: &Verifier, backed: &Backed, view: &View) -> anyhow::Result<Run> {
    let config = &verifier.config;
    let limits = config.backstop.as_ref().context("no backstop")?;
    let session = Session::open_carrying(config.target_settings(), "lockstep backstop").await.context("target")?;
    let settings = format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; SET TimeZone = {}",
        limits.statement_timeout.as_millis(),
        limits.lock_timeout.as_millis(),
        quote::literal(&backed.time_zone)
    );
    let described = |error: tokio_postgres::Error| anyhow::anyhow!(lockstep_connect::describe(&error));
    session.batch_execute(&settings).await.map_err(described)?;
    let refreshed = view.refresh(&session).await.map_err(described)?;
    if backed.by_clock {
        return Ok(Run { rows: refreshed.rows, suspects: 0, drift: 0 });
    }
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(described)?;
    let claim = Claim {
        table: quote::qualified(&view.schema, &backed.projection),
        definition: format!("SELECT * FROM {}", view.qualified()),
        on_target: true,
        columns: backed.columns.clone(),
        key: backed.key.clone(),
        without: (Vec::new(), Vec::new()),
        time_zone: backed.time_zone.clone(),
    };
    let verdict = verify(&session, &session, &claim, None, SUSPECTS_MAX, &|_| ()).await.map_err(described)?;
    session.batch_execute("ROLLBACK").await.map_err(described)?;
    let mut suspects = Suspects::default();
    for row in verdict.differences.iter().flat_map(lockstep_backstop::Difference::rows) {
        let value = |name: &String| backed.columns.iter().position(|column| column == name).and_then(|n| row[n].clone());
        suspects.add(backed.suspect.0, backed.suspect.1.iter().map(value).collect());
    }
    let group = verifier.groups.iter().find(|group| group.name == backed.group);
    let drift = match group {
        Some(group) if !suspects.is_empty() => repair(group, &backed.projection, suspects).await,
        Some(_) | None => 0,
    };
    Ok(Run { rows: refreshed.rows, suspects: verdict.differing, drift })
}

/// Has suspects refreshed; returns how many rows were wrong. What a change explains is not counted.
async fn repair(group: &GroupHandle, projection: &str, suspects: Suspects) -> i64 {
    let (reply, answer) = oneshot::channel();
    let command = GroupCommand::Repair { projection: projection.to_owned(), suspects, reply: Some(reply) };
    if group.commands.send(command).is_err() {
        return 0;
    }
    let drift = match tokio::time::timeout(REPAIR_MAX, answer).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(_)) | Err(_) => 0,
    };
    if drift > 0 {
        tracing::warn!(projection, rows = drift, "drift: rows were wrong although no change explains it; repaired");
    }
    drift
}

/// What gauges tell of the last refreshes and verifications. They are in the target, so they outlive a restart.
async fn tell_ages(verifier: &Verifier, backed: &[Backed], kept: &mut Option<Session>) {
    let session = match kept {
        Some(session) if !session.is_closed() => session,
        _ => match Session::open(verifier.config.target_settings(), "lockstep backstop").await {
            Ok(session) => kept.insert(session),
            // It comes back, or others notice.
            Err(_) => return,
        },
    };
    let views: Vec<&str> = backed.iter().filter_map(|backed| backed.view.as_ref()).map(|view| view.name.as_str()).collect();
    let rows = session
        .query(
            "SELECT view, extract(epoch FROM clock_timestamp() - max(last_refresh_at) FILTER (WHERE success))::float8,
                    avg(success::int) FILTER (WHERE last_refresh_at > clock_timestamp() - interval '1 day')::float8, max(projection)
             FROM lockstep.mv_refresh_log WHERE view = ANY ($1) GROUP BY view",
            &[&views],
        )
        .await;
    for row in rows.iter().flatten() {
        let view: String = row.get(0);
        if let Some(seconds) = row.get::<_, Option<f64>>(1) {
            if verifier.config.products().is_some_and(|products| row.get::<_, &str>(3) == products) {
                metrics::gauge!("product_search_mv_staleness_seconds").set(seconds);
            }
            metrics::gauge!("lockstep_mv_staleness_seconds", "view" => view.clone()).set(seconds);
        }
        if let Some(ratio) = row.get::<_, Option<f64>>(2) {
            metrics::gauge!("lockstep_mv_success_ratio", "view" => view).set(ratio);
        }
    }
    let rows = session
        .query(
            "SELECT projection, extract(epoch FROM max(finished_at))::float8 FROM lockstep.verification
             WHERE finished_at IS NOT NULL AND outcome <> 'failed' AND projection IN (SELECT name FROM lockstep.projection)
             GROUP BY projection",
            &[],
        )
        .await;
    for row in rows.iter().flatten() {
        let labels = [("projection", row.get::<_, String>(0))];
        metrics::gauge!("lockstep_last_verification_timestamp_seconds", &labels).set(row.get::<_, f64>(1));
    }
}
