//! `lockstep run`: sets up, starts capture and groups, watches them, stops them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lockstep_capture::{Capture, CaptureStatus, Interest, Limits, StreamSettings};
use lockstep_connect::Session;
use lockstep_plan::facts::RelationKind;
use lockstep_plan::sql::Places;
use lockstep_plan::{RelationRole, Role};
use lockstep_refresh::{
    BatchObserver, Endpoints, Group, GroupEnd, GroupSettings, GroupStatus, Projection, ProjectionState, RefreshOptions,
    Registered,
};
use tokio::sync::{mpsc, watch as watched};
use tokio::task::JoinSet;

use crate::boundaries::Boundaries;
use crate::config::{Config, DEFAULT_GROUP};
use crate::observed::{Instance, Observed};
use crate::preflight::{self, Depth, Planned, Preflight};
use crate::reload::{self, Reload};
use crate::verification::{GroupHandle, Verifier};
use crate::versions::Effective;
use crate::{Exit, api, backstop, commands, http, lease, monitor, progress, requests, setup, telemetry, versions, watch};

/// Dirty keys kept for each relation and group. A million rows in one transaction collapse to "whole relation" long before they
/// cost memory.
const DIRTY_KEYS_MAX: usize = 100_000;

/// How long the groups get to finish their batch when asked to stop.
const STOP_MAX: Duration = Duration::from_secs(4);

/// Pause before another set-up.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Undefined object (slot or publication), object not in prerequisite state (an invalidated slot).
const NEW_SLOT_CODES: [&str; 2] = ["SQLSTATE 42704", "SQLSTATE 55000"];

/// A stream that ends again within this time after a restart needs a new slot.
const RESTART_WINDOW: Duration = Duration::from_secs(30);

/// Switches for embedders: the demonstration and tests.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Told about every batch.
    pub observer: Option<Arc<dyn BatchObserver>>,
    /// Tuning of batches.
    pub options: RefreshOptions,
    /// Where the statuses of the groups are published.
    pub statuses: Option<watched::Sender<Vec<watched::Receiver<GroupStatus>>>>,
    /// No progress bar.
    pub quiet: bool,
    /// How often to look at the source's schema, if not as usual.
    pub look_at_schema_every: Option<Duration>,
    /// Changes when the configuration file is to be read again.
    pub reload: Option<watched::Receiver<u64>>,
    /// Where what is listened on is published.
    pub addresses: Option<watched::Sender<Addresses>>,
}

/// What a running projector listens on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Metrics, probes and the page.
    pub metrics: Option<std::net::SocketAddr>,
    /// The read API.
    pub api: Option<std::net::SocketAddr>,
}

/// How a round of running ended.
enum RoundEnd {
    Stopped,
    CaughtUp,
    /// Set up again, for this reason.
    Again(String),
    /// Set up again with another configuration.
    Reloaded(Box<Config>),
    SetUpFailed(anyhow::Error),
    Failed(anyhow::Error),
}

/// Runs until SIGTERM or SIGINT, or until caught up with `once`.
///
/// # Errors
/// What could not be set up, or why a group could not go on.
pub async fn run(config: &Config, once: bool) -> anyhow::Result<Exit> {
    let (stop_sender, stop) = watched::channel(false);
    let signals = tokio::spawn(async move {
        wait_for_signal().await;
        tracing::info!("stopping: the batch in work is finished first");
        stop_sender.send_replace(true);
        // A second signal means now.
        wait_for_signal().await;
        std::process::exit(Exit::Failure as i32);
    });
    let (reload_sender, reload) = watched::channel(0);
    let hangups = tokio::spawn(reload::count_hangups(reload_sender));
    let hooks = Hooks { reload: Some(reload), ..Hooks::default() };
    let result = run_until(config, once, stop, hooks).await;
    signals.abort();
    hangups.abort();
    result
}

/// Runs until `stop` turns true, or until caught up with `once`.
///
/// # Errors
/// As [`run`].
pub async fn run_until(config: &Config, once: bool, mut stop: watched::Receiver<bool>, hooks: Hooks) -> anyhow::Result<Exit> {
    let checked = tokio::select! {
        checked = preflight::run(config, Depth::Start) => checked,
        _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
    };
    if !checked.passed() && !only_known_ones_fail(config, &checked).await {
        for error in checked.errors(telemetry::colours()) {
            eprintln!("{error}\n");
        }
        return Ok(Exit::Failure);
    }
    let metrics = telemetry::start_metrics();
    let health = http::Health::default();
    let observed = Arc::new(Observed::default());
    observed.becomes(Instance::Starting, None);
    let page = http::serve(config, metrics, health.clone(), Some(observed.clone())).await?;
    let _observing = Aborted(tokio::spawn({
        let observed = observed.clone();
        async move { observed.run().await }
    }));
    let reading = start_api(config, once).await?;
    if let Some(published) = &hooks.addresses {
        published.send_replace(Addresses { metrics: page, api: reading.as_ref().map(api::Running::address) });
    }
    let mut reload = Reload::new(&hooks, reading);
    let mut config = config.clone();
    let mut checked = checked;
    let mut new_slot = false;
    let mut has_run = false;
    loop {
        let began = tokio::time::Instant::now();
        let reason =
            match round(&config, &checked, once, stop.clone(), &hooks, &health, new_slot, &mut has_run, &mut reload, &observed)
                .await
            {
                RoundEnd::Stopped | RoundEnd::CaughtUp => return Ok(Exit::Good),
                // Once it has run, a set-up that fails is as likely a server on its way back as anything else.
                RoundEnd::SetUpFailed(error) if has_run => format!("{error:#}"),
                RoundEnd::SetUpFailed(error) | RoundEnd::Failed(error) => return Err(error),
                RoundEnd::Reloaded(new) => {
                    config = *new;
                    new_slot = false;
                    "the configuration has changed".to_owned()
                }
                RoundEnd::Again(reason) => {
                    // Mostly the set-up mends it (the slot is gone). If not, the slot itself cannot be used.
                    new_slot = began.elapsed() < RESTART_WINDOW && NEW_SLOT_CODES.iter().any(|code| reason.contains(code));
                    reason
                }
            };
        tracing::warn!(reason, new_slot, "setting up again");
        observed.becomes(Instance::SettingUpAgain, Some(reason));
        loop {
            tokio::select! {
                () = tokio::time::sleep(AGAIN_AFTER) => {}
                new = reload.wanted(&config) => config = new,
                _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
            }
            let again = tokio::select! {
                again = preflight::run(&config, Depth::Start) => again,
                _ = stop.wait_for(|stop| *stop) => return Ok(Exit::Good),
            };
            // A query that has begun to fail is its own projection's fault; the others go on.
            if again.passed() || only_known_ones_fail(&config, &again).await {
                checked = again;
                break;
            }
            let reason = again.errors(false).join("; ");
            tracing::error!(reason, "not ready to go on; trying again");
        }
    }
}

/// Serves reads, if that is configured; also while another instance writes.
async fn start_api(config: &Config, once: bool) -> anyhow::Result<Option<api::Running>> {
    let Some((api, address)) = config.api.as_ref().and_then(|api| Some((api, api.listen?))) else { return Ok(None) };
    if once {
        return Ok(None);
    }
    api::serve(config, api, address).await.map(Some)
}

/// Whether nothing stands in the way but queries of projections that worked before: those are set aside. A new projection must work.
async fn only_known_ones_fail(config: &Config, checked: &Preflight) -> bool {
    if !checked.only_queries_fail() {
        return false;
    }
    let Ok(target) = Session::open(config.target_settings(), "lockstep check").await else { return false };
    // Nothing is set up where the table is missing.
    let Ok(rows) = target.query("SELECT name FROM lockstep.projection", &[]).await else { return false };
    let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let fails = |name: &String| checked.failure_of(name).is_some();
    config.projections.iter().map(|projection| &projection.name).filter(|name| fails(name)).all(|name| known.contains(name))
}

#[allow(clippy::too_many_arguments)]
async fn round(
    config: &Config,
    checked: &Preflight,
    once: bool,
    mut stop: watched::Receiver<bool>,
    hooks: &Hooks,
    health: &http::Health,
    new_slot: bool,
    has_run: &mut bool,
    reload: &mut Reload,
    observed: &Arc<Observed>,
) -> RoundEnd {
    let started = tokio::select! {
        started = Box::pin(start(config, checked, once, hooks, new_slot, has_run, observed)) => started,
        new = reload.wanted(config) => return RoundEnd::Reloaded(Box::new(new)),
        _ = stop.wait_for(|stop| *stop) => return RoundEnd::Stopped,
    };
    match started {
        Ok(running) => {
            *has_run = true;
            health.watch(running.statuses.clone(), running.capture.status(), running.broken.clone());
            observed.becomes(Instance::Leading, None);
            if let Some(statuses) = &hooks.statuses {
                statuses.send_replace(running.statuses.clone());
            }
            Box::pin(running.watch(config, checked, once, stop, hooks, reload)).await
        }
        Err(error) => RoundEnd::SetUpFailed(error),
    }
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Running {
    capture: Capture,
    /// Holds the writer's lock.
    target: Session,
    leader_epoch: i64,
    statuses: Vec<watched::Receiver<GroupStatus>>,
    verifier: Verifier,
    backed: Arc<Vec<backstop::Backed>>,
    /// Where a new version is in the making: what is set up in place of what is configured.
    effective: Option<Effective>,
    /// What the tracked relations were when it was set up.
    signatures: Vec<lockstep_capture::Signature>,
    groups: JoinSet<GroupEnd>,
    stop_groups: watched::Sender<bool>,
    monitor: tokio::task::JoinHandle<()>,
    /// Projections that cannot even be planned.
    broken: Vec<String>,
}

async fn start(
    config: &Config,
    checked: &Preflight,
    once: bool,
    hooks: &Hooks,
    new_slot: bool,
    has_run: &mut bool,
    observed: &Arc<Observed>,
) -> anyhow::Result<Running> {
    let lease::Leadership { target, waited } = if once {
        lease::Leadership { target: lease::lock_out_others(config).await?, waited: false }
    } else {
        lease::become_leader(config, observed).await?
    };
    let looked_again;
    let checked = if waited {
        looked_again = preflight::run(config, Depth::Start).await;
        if !looked_again.passed() && !only_known_ones_fail(config, &looked_again).await {
            bail!("{}", looked_again.errors(false).join("; "));
        }
        &looked_again
    } else {
        checked
    };
    // From here on a failure is no reason to end: another instance may have ended our sessions.
    *has_run |= waited;
    let mut target = target;
    setup::migrate(&mut target).await.context("creating lockstep's own schema in the target")?;
    let effective = Box::pin(lease::kept_during(config, versions::effective(config, checked, &mut target))).await?;
    let wanted = config;
    let (config, checked, making) = match &effective {
        Some(found) => (&found.config, &found.checked, found.making.as_slice()),
        None => (config, checked, &[][..]),
    };
    let installed = lease::kept_during(config, setup::install(config, checked, making, target, new_slot)).await?;
    let grouped = by_group(config, checked, &installed.registered);
    let stream = StreamSettings {
        source: config.source.clone(),
        slot: config.slot.clone(),
        publication: config.publication.clone(),
        tracked: checked.tracked.clone(),
        identity: (checked.system_identifier.clone(), checked.timeline),
        slot_lsn: installed.slot_lsn,
    };
    let interests = grouped.iter().map(|group| interests(&group.members)).collect();
    let capture = Capture::start(stream, interests, Limits { keys_max: DIRTY_KEYS_MAX });
    let (stop_groups, stop) = watched::channel(false);
    let mut groups = JoinSet::new();
    let mut statuses = Vec::new();
    let mut names = Vec::new();
    let mut handles = Vec::new();
    let boundaries = Boundaries::new(hooks.observer.clone(), observed.clone());
    for (index, group) in grouped.into_iter().enumerate() {
        names.push(group.name.clone());
        let public = group.members.iter().filter(|(planned, _)| planned.part_of.is_none());
        let public: Vec<String> = public.map(|(planned, _)| planned.plan.projection.clone()).collect();
        let settings = group_settings(config, hooks, group, index, installed.leader_epoch, boundaries.clone());
        let (command, commands) = mpsc::unbounded_channel();
        handles.push(GroupHandle { name: settings.name.clone(), projections: public, commands: command });
        let (group, status) = Group::new(settings, capture.clone(), commands, stop.clone());
        statuses.push(status);
        groups.spawn(group.run());
    }
    let verifier = Verifier { config: config.clone(), boundaries, groups: handles };
    let view_fingerprint =
        |planned: &Planned| setup::view_fingerprint(planned, &checked.planned, &checked.tracked, &installed.signatures);
    let backed = backstop::backed(wanted, &checked.planned, view_fingerprint);
    backstop::drop_unwanted(&installed.target, &config.schema, &backed)
        .await
        .context("dropping views that are no longer wanted")?;
    let relations = checked.tracked.iter().map(|tracked| (tracked.oid, tracked.label())).collect();
    let broken: Vec<(String, String)> = config
        .projections
        .iter()
        .filter(|projection| checked.failure_of(&projection.name).is_some())
        .map(|projection| (projection.group.clone().unwrap_or_else(|| DEFAULT_GROUP.to_owned()), projection.name.clone()))
        .collect();
    observed.groups_are(&names);
    observed.planned(commands::plans(checked));
    let monitor =
        monitor::run(config.clone(), capture.clone(), names, statuses.clone(), relations, broken.clone(), observed.clone());
    let monitor = tokio::spawn(monitor);
    Ok(Running {
        capture,
        target: installed.target,
        leader_epoch: installed.leader_epoch,
        statuses,
        verifier,
        backed: Arc::new(backed),
        effective,
        signatures: installed.signatures,
        groups,
        stop_groups,
        monitor,
        broken: broken.into_iter().map(|(_, name)| name).collect(),
    })
}

fn group_settings(
    config: &Config,
    hooks: &Hooks,
    group: Grouped<'_>,
    index: usize,
    leader_epoch: i64,
    boundaries: Arc<Boundaries>,
) -> GroupSettings {
    let projection = |(planned, registered): (&Planned, &Registered)| {
        Projection::new(
            planned.plan.clone(),
            &planned.schema,
            planned.indexes.clone(),
            &planned.time_zone,
            planned.on_error,
            planned.node,
            registered,
        )
        .with_feed(planned.feed)
    };
    GroupSettings {
        name: group.name,
        index,
        linger: group.linger,
        projections: group.members.into_iter().map(projection).collect(),
        endpoints: Endpoints { source: config.source.clone(), target: config.target.clone() },
        places: Places { schema: config.schema.clone(), state_schema: "lockstep".to_owned() },
        options: RefreshOptions {
            time_resolution: config.time_resolution.unwrap_or(hooks.options.time_resolution),
            schedule: config.time_schedule.unwrap_or(hooks.options.schedule),
            ..hooks.options.clone()
        },
        leader_epoch,
        observer: Some(boundaries),
    }
}

struct Grouped<'a> {
    name: String,
    linger: Duration,
    members: Vec<(&'a Planned, &'a Registered)>,
}

fn by_group<'a>(config: &Config, checked: &'a Preflight, registered: &'a [Registered]) -> Vec<Grouped<'a>> {
    let mut groups: Vec<Grouped<'a>> = Vec::new();
    for member in checked.planned.iter().zip(registered) {
        let name = &member.0.group;
        match groups.iter_mut().find(|group| &group.name == name) {
            Some(group) => group.members.push(member),
            None => {
                let configured = config.groups.iter().find(|group| &group.name == name);
                let linger = configured.map_or(Duration::ZERO, |group| group.linger);
                groups.push(Grouped { name: name.clone(), linger, members: vec![member] });
            }
        }
    }
    groups
}

/// A relation's keys are wanted if some incremental projection of the group traces them.
fn interests(members: &[(&Planned, &Registered)]) -> Vec<Interest> {
    let mut interests: Vec<Interest> = Vec::new();
    for (planned, _) in members {
        for (index, relation) in planned.plan.relations.iter().enumerate() {
            if relation.kind == RelationKind::Projection {
                continue;
            }
            let relations = &planned.plan.relations;
            let reads = |role: &RelationRole| role.relation == index || relations[role.relation].children.contains(&relation.oid);
            let mut roles = planned.plan.branches().iter().flat_map(|branch| &branch.roles);
            let keys_wanted = roles.any(|role| reads(role) && role.role != Role::Whole);
            match interests.iter_mut().find(|interest| interest.oid == relation.oid) {
                Some(interest) => interest.keys_wanted |= keys_wanted,
                None => interests.push(Interest { oid: relation.oid, keys_wanted }),
            }
        }
    }
    interests
}

impl Running {
    async fn watch(
        mut self,
        config: &Config,
        checked: &Preflight,
        once: bool,
        mut stop: watched::Receiver<bool>,
        hooks: &Hooks,
        reload: &mut Reload,
    ) -> RoundEnd {
        let mut capture_status = self.capture.status();
        let progress = tokio::spawn(progress::show(config.clone(), self.statuses.clone(), hooks.quiet));
        let requests = Box::pin(requests::follow(&self.target, &self.verifier));
        let feed = Box::pin(reload::keep_feed_short(config));
        let schedule = Box::pin(backstop::follow(&self.verifier, self.backed.clone()));
        let (in_force, checked) = self.effective.as_ref().map_or((config, checked), |found| (&found.config, &found.checked));
        let schema = Box::pin(watch::schema(in_force, checked, &self.signatures, hooks.look_at_schema_every));
        let making = self.effective.as_ref().map_or(&[][..], |found| found.making.as_slice());
        let versions = Box::pin(versions::make_ready(&self.verifier, making, &self.statuses));
        let catching_up = catch_up(config, once, &self.target, self.statuses.clone());
        let end = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => RoundEnd::Stopped,
            reason = schema => RoundEnd::Again(reason),
            () = schedule => RoundEnd::Again("schedules are followed no more".to_owned()),
            reason = requests => RoundEnd::Again(reason),
            new = reload.wanted(config) => RoundEnd::Reloaded(Box::new(new)),
            () = feed => RoundEnd::Again("the feed's history is kept no more".to_owned()),
            reason = versions => RoundEnd::Again(reason),
            reason = lease::keep(&self.target, self.leader_epoch, config.lease) => RoundEnd::Again(reason),
            () = closed(&self.target) => RoundEnd::Again("the session that holds the writer's lock ended".to_owned()),
            caught_up = catching_up => match caught_up {
                Ok(()) => RoundEnd::CaughtUp,
                Err(error) => RoundEnd::Failed(error),
            },
            ended = capture_status.wait_for(|status| matches!(status, CaptureStatus::Ended(_))) => match ended.as_deref() {
                Ok(CaptureStatus::Ended(reason)) => RoundEnd::Again(reason.clone()),
                Ok(CaptureStatus::Starting | CaptureStatus::Streaming | CaptureStatus::Reconnecting(_)) | Err(_) => {
                    RoundEnd::Again("the stream's task is gone".to_owned())
                }
            },
            Some(ended) = self.groups.join_next() => match ended {
                Ok(GroupEnd::Failed(lockstep_refresh::BatchError::Capture(error))) => RoundEnd::Again(error.to_string()),
                Ok(GroupEnd::Failed(error @ lockstep_refresh::BatchError::Fenced)) => RoundEnd::Again(error.to_string()),
                Ok(GroupEnd::Failed(error)) => RoundEnd::Failed(error.into()),
                Ok(GroupEnd::Stopped) => RoundEnd::Stopped,
                Err(error) => RoundEnd::Failed(anyhow::anyhow!("a group's task ended: {error}")),
            },
        };
        progress.abort();
        self.monitor.abort();
        self.stop_groups.send_replace(true);
        let finish = async { while self.groups.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_MAX, finish).await.is_err() {
            tracing::warn!("a batch did not finish in time; it is rolled back and repeated at the next start");
        }
        end
    }
}

/// Returns when a session has ended.
async fn closed(session: &Session) {
    while !session.is_closed() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// With `once`: returns when every group contains the source's position of now. Otherwise never.
async fn catch_up(
    config: &Config,
    once: bool,
    target: &Session,
    statuses: Vec<watched::Receiver<GroupStatus>>,
) -> anyhow::Result<()> {
    if !once {
        return std::future::pending().await;
    }
    let source = Session::open(&config.source, "lockstep").await.context("source")?;
    let lsn: String = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    loop {
        let contained: bool =
            target.query_one("SELECT lockstep.wait_for($1::text::pg_lsn, interval '1 second')", &[&lsn]).await?.get(0);
        let building = |status: &watched::Receiver<GroupStatus>| {
            let status = status.borrow();
            status.projections.iter().any(|projection| match projection.state {
                ProjectionState::Registered | ProjectionState::Building | ProjectionState::Degraded => true,
                ProjectionState::Live | ProjectionState::Faulted => false,
            })
        };
        if contained && !statuses.iter().any(building) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let faulted: Vec<String> = statuses
        .iter()
        .flat_map(|status| status.borrow().projections.clone())
        .filter(|projection| projection.reason.is_some())
        .map(|projection| format!("{}: {}", projection.name, projection.reason.unwrap_or_default()))
        .collect();
    if faulted.is_empty() { Ok(()) } else { bail!("faulted: {}", faulted.join("; ")) }
}

/// Returns at SIGTERM or SIGINT.
pub(crate) async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
