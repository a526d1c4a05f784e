//! `lockstep verify` and `lockstep repair`.

use std::time::Duration;

use anyhow::bail;
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_supervise::Hooks;
use lockstep_supervise::requests::{self, Request};
use lockstep_supervise::{Wish, shown};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::common;
use super::stall::Stall;
use crate::Exit;
use crate::run::run_until;

/// How often the outcome is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long a projector that was started for it gets to stop.
const STOP_MAX: Duration = Duration::from_secs(15);

#[derive(Serialize)]
struct VerificationView {
    projection: String,
    sample: Option<String>,
    seconds: Option<f64>,
    compared: i64,
    differing: i64,
    hidden_differing: i64,
    repaired: Option<i64>,
    outcome: String,
    message: Option<String>,
    differences: Vec<DifferenceView>,
}

#[derive(Serialize)]
struct DifferenceView {
    part: String,
    kind: String,
    key: Vec<Option<String>>,
    columns: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Vec<Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<Vec<Option<String>>>,
}

/// Compares projections with their defining queries.
///
/// # Errors
/// A server cannot be reached, nothing is set up, or the projector that carries it out has ended.
pub async fn verify(
    config: &Config,
    names: Vec<String>,
    sample: Option<u32>,
    show_values: bool,
    patience: Duration,
    json: bool,
) -> anyhow::Result<Exit> {
    run(config, Wish { names, sample, show_values, repair: false }, patience, json).await
}

/// Compares projections with their defining queries and refreshes what differs.
///
/// # Errors
/// As [`verify`].
pub async fn repair(
    config: &Config,
    names: Vec<String>,
    show_values: bool,
    patience: Duration,
    json: bool,
) -> anyhow::Result<Exit> {
    run(config, Wish { names, sample: None, show_values, repair: true }, patience, json).await
}

async fn run(config: &Config, wish: Wish, patience: Duration, json: bool) -> anyhow::Result<Exit> {
    if let Some(exit) = common::unknown_projection(config, wish.names.iter()) {
        return Ok(exit);
    }
    let target = common::installed_target(config, None).await?;
    let own = if requests::is_running(&target).await? { None } else { Some(Own::start(config)) };
    let result = carried_out(config, &target, &wish, own.as_ref(), patience, json).await;
    if let Some(own) = own {
        own.stop().await?;
    }
    let views = match result? {
        Outcome::Views(views) => views,
        Outcome::GivenUp(reason) => {
            eprintln!("{reason}");
            return Ok(Exit::TimedOut);
        }
    };
    if json {
        common::print_json(&views)?;
    } else {
        print(&views);
    }
    let good = |view: &VerificationView| view.outcome == "equal" || view.outcome == "repaired";
    Ok(if !views.is_empty() && views.iter().all(good) { Exit::Good } else { Exit::Failure })
}

/// What has changed in the catalogs is compared before anything is verified: it is not the rows that are wrong then.
async fn carried_out(
    config: &Config,
    target: &Session,
    wish: &Wish,
    own: Option<&Own>,
    patience: Duration,
    json: bool,
) -> anyhow::Result<Outcome> {
    let mut stall = Stall::new(config, patience).await;
    let all: Vec<&str> = config.projections.iter().map(|projection| projection.name.as_str()).collect();
    let wished: Vec<&str> = wish.names.iter().map(String::as_str).collect();
    let ended = async {
        while !own.is_some_and(|own| own.task.is_finished()) {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let stalled = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Some(reason) = stall.look(target).await? {
                break anyhow::Ok(reason);
            }
        }
    };
    tokio::select! {
        reason = stalled => return Ok(Outcome::GivenUp(reason?)),
        settled = requests::settled(target, if wished.is_empty() { &all } else { &wished }, own.is_none()) => settled?,
        () = ended => bail!("the projector that was started for it has ended; see its messages above"),
    }
    let request = requests::ask(target, Request::Verify, None, &serde_json::to_value(wish)?).await?;
    let outcome = outcome(target, request, own, stall, json).await?;
    if let Outcome::GivenUp(reason) = &outcome {
        // Nobody is to take it up when nobody waits for it any more.
        let given_up = "UPDATE lockstep.request SET done_at = clock_timestamp(), error = $2 WHERE id = $1 AND done_at IS NULL";
        target.execute(given_up, &[&request, reason]).await?;
    }
    Ok(outcome)
}

/// A projector of our own, where none runs: it catches up, and verifies at a boundary as any other.
pub(super) struct Own {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Exit>>,
}

impl Own {
    pub(super) fn start(config: &Config) -> Self {
        eprintln!("no projector runs: one is started for this; it catches up first");
        let (stop, stopped) = watch::channel(false);
        let mut config = config.clone();
        // It only verifies: others may listen there.
        config.metrics = None;
        config.api = None;
        let hooks = Hooks { quiet: true, no_schedules: true, ..Hooks::default() };
        let task = tokio::spawn(async move { run_until(&config, false, stopped, hooks, None).await });
        Self { stop, task }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        if let Ok(ended) = tokio::time::timeout(STOP_MAX, self.task).await {
            ended??;
        }
        Ok(())
    }
}

enum Outcome {
    Views(Vec<VerificationView>),
    GivenUp(String),
}

async fn outcome(target: &Session, request: i64, own: Option<&Own>, mut stall: Stall, json: bool) -> anyhow::Result<Outcome> {
    let bar = indicatif::ProgressBar::new_spinner();
    bar.set_style(indicatif::ProgressStyle::with_template("{spinner} {msg}")?);
    if json {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    loop {
        let row = target.query_one("SELECT done_at IS NOT NULL, error FROM lockstep.request WHERE id = $1", &[&request]).await?;
        if row.get(0) {
            bar.finish_and_clear();
            if let Some(error) = row.get::<_, Option<String>>(1) {
                bail!("{error}");
            }
            return views(target, request).await.map(Outcome::Views);
        }
        if own.is_some_and(|own| own.task.is_finished()) {
            bail!("the projector that was started for it has ended; see its messages above");
        }
        if own.is_none() && !requests::is_running(target).await? {
            bail!("the projector that ran has ended");
        }
        if let Some(reason) = stall.look(target).await? {
            bar.finish_and_clear();
            return Ok(Outcome::GivenUp(reason));
        }
        let now = target
            .query_opt(
                "SELECT projection || ': ' || compared || ' rows compared' FROM lockstep.verification
                 WHERE request = $1 AND finished_at IS NULL ORDER BY id DESC LIMIT 1",
                &[&request],
            )
            .await?;
        bar.set_message(now.map_or_else(|| "waiting for a batch".to_owned(), |row| row.get(0)));
        bar.tick();
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn views(target: &Session, request: i64) -> anyhow::Result<Vec<VerificationView>> {
    let rows = target
        .query(
            "SELECT id, projection, sample, extract(epoch FROM finished_at - started_at)::float8, compared, differing, hidden_differing,
                    repaired, outcome, message
             FROM lockstep.verification WHERE request = $1 ORDER BY id",
            &[&request],
        )
        .await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        views.push(VerificationView {
            projection: row.get(1),
            sample: row.get(2),
            seconds: row.get(3),
            compared: row.get(4),
            differing: row.get(5),
            hidden_differing: row.get(6),
            repaired: row.get(7),
            outcome: row.get(8),
            message: row.get(9),
            differences: differences(target, row.get(0)).await?,
        });
    }
    Ok(views)
}

async fn differences(target: &Session, verification: i64) -> Result<Vec<DifferenceView>, tokio_postgres::Error> {
    let rows = target
        .query(
            "SELECT part, kind, key, columns, expected, actual FROM lockstep.difference WHERE verification = $1 ORDER BY part, key",
            &[&verification],
        )
        .await?;
    let view = |row: &tokio_postgres::Row| DifferenceView {
        part: row.get(0),
        kind: row.get(1),
        key: row.get(2),
        columns: row.get(3),
        expected: row.get(4),
        actual: row.get(5),
    };
    Ok(rows.iter().map(view).collect())
}

fn print(views: &[VerificationView]) {
    let mut table = common::table(&["PROJECTION", "COMPARED", "DIFFERING", "HIDDEN", "REPAIRED", "SECONDS", "OUTCOME"]);
    for view in views {
        table.add_row([
            view.projection.clone(),
            view.sample.as_ref().map_or_else(|| view.compared.to_string(), |sample| format!("{} ({sample})", view.compared)),
            view.differing.to_string(),
            view.hidden_differing.to_string(),
            view.repaired.map_or("-".to_owned(), |rows| rows.to_string()),
            view.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}")),
            view.outcome.clone(),
        ]);
    }
    println!("{table}");
    views.iter().for_each(print_differences);
}

fn print_differences(view: &VerificationView) {
    if let Some(message) = &view.message {
        println!("\n{}: {message}", view.projection);
    }
    for difference in &view.differences {
        let key = if difference.key.is_empty() { "-".to_owned() } else { shown(&difference.key) };
        let columns = difference.columns.join(", ");
        println!("{}: {} {}: key {key}: {columns}", view.projection, difference.part, difference.kind);
        for (what, values) in [("expected", &difference.expected), ("actual", &difference.actual)] {
            if let Some(values) = values {
                println!("  {what}: {}", shown(values));
            }
        }
    }
    let recorded = i64::try_from(view.differences.len()).unwrap_or(i64::MAX);
    if recorded < view.differing + view.hidden_differing {
        println!("{}: … and {} more", view.projection, view.differing + view.hidden_differing - recorded);
    }
}
