//! One round of running: from leadership to the reason why it ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lockstep_capture::{Capture, CaptureStatus, Limits, StreamSettings};
use lockstep_connect::Session;
use lockstep_refresh::{Group, GroupEnd, GroupStatus, ProjectionState};
use tokio::sync::{mpsc, watch as watched};
use tokio::task::JoinSet;

use super::grouping::{by_group, group_settings, interests};
use super::{Hooks, RoundEnd, only_known_ones_fail};
use crate::boundaries::Boundaries;
use crate::config::{Config, DEFAULT_GROUP};
use crate::observed::Observed;
use crate::preflight::{self, Depth, Planned, Preflight};
use crate::reload::Reload;
use crate::verification::{GroupHandle, Verifier};
use crate::versions::Effective;
use crate::{backstop, commands, lease, metadata, monitor, progress, requests, setup, upkeep, versions, watch};

/// Dirty keys kept for each relation and group. A million rows in one transaction collapse to "whole relation" long before they
/// cost memory.
const DIRTY_KEYS_MAX: usize = 100_000;

/// How long the groups get to finish their batch when asked to stop.
const STOP_MAX: Duration = Duration::from_secs(4);

/// What runs: capture, groups, and those that look after them.
pub(super) struct Running {
    pub(super) capture: Capture,
    /// Holds the writer's lock.
    target: Session,
    leader_epoch: i64,
    pub(super) statuses: Vec<watched::Receiver<GroupStatus>>,
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
    pub(super) broken: Vec<String>,
}

/// Takes the lead, sets everything up, starts it.
pub(super) async fn start(
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
    metadata::migrate(config.target_settings()).await.context("creating lockstep's own schema in the target")?;
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

impl Running {
    /// Until something ends it; returns what.
    pub(super) async fn watch(
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
        let upkeep = Box::pin(upkeep::follow(config));
        let schedule = Box::pin(async {
            if hooks.no_schedules {
                std::future::pending::<()>().await;
            }
            backstop::follow(&self.verifier, self.backed.clone()).await;
        });
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
            never = upkeep => match never {},
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
