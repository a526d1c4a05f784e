//! What runs while this instance leads, from leadership to the reason why it ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::select_all;
use lockstep_capture::{Capture, CaptureStatus, Limits, StreamEnd, StreamSettings};
use lockstep_config::Config;
use lockstep_connect::{ServerIdentity, Session};
use lockstep_observe::Observed;
use lockstep_preflight::{self as preflight, Depth, Preflight};
use lockstep_refresh::{GroupEnd, GroupStatus, ProjectionState};
use lockstep_wal::Lsn;
use tokio::sync::watch as watched;

use super::active_setup::InForce;
use super::grouping::{Common, by_group, interests};
use super::member::{Member, identity};
use super::round::{RoundEnd, Started};
use crate::admission::may_set_aside;
use crate::hooks::Hooks;
use crate::metadata::identities;
use crate::reload::Reload;
use crate::request_handler::Asked;
use crate::setup::types;
use crate::verification::Verifier;
use crate::verification::boundaries::Boundaries;
use crate::verification::ddl_yield::GivingWay;
use crate::{catalogs, lease, metadata, monitor, progress, request_handler, schedule, setup, upkeep, versions};

/// Dirty keys kept for each relation and group. A million rows in one transaction collapse to "whole relation" long before they
/// cost memory.
const DIRTY_KEYS_MAX: usize = 100_000;

/// First and longest pause before another try to set up in place.
const POSTPONED_FOR: Duration = Duration::from_secs(1);
const POSTPONED_FOR_MAX: Duration = Duration::from_secs(30);

/// What runs: capture, groups, and those that look after them.
pub(super) struct Running {
    pub(super) capture: Capture,
    /// The server that the stream comes from.
    pub(super) source: ServerIdentity,
    /// Holds the writer's lock.
    pub(super) target: Session,
    pub(super) leader_epoch: i64,
    pub(super) members: Vec<Member>,
    pub(super) in_force: InForce,
    pub(super) boundaries: Arc<Boundaries>,
    giving_way: GivingWay,
    /// Where the slot was when it was set up, and when that was.
    slot_was: (Option<Lsn>, tokio::time::Instant),
    /// Setting up again in place did not succeed; it is tried again.
    pub(super) postponed: Option<Postponed>,
    monitor: Option<tokio::task::JoinHandle<()>>,
}

/// Another try that is due.
pub(super) struct Postponed {
    pub(super) reason: String,
    /// What stood in the way.
    pub(super) obstacle: String,
    pub(super) at: tokio::time::Instant,
    pub(super) pause: Duration,
}

/// Takes the lead, sets everything up, starts it.
///
/// # Errors
/// Another instance leads, or something cannot be set up.
pub(super) async fn start(
    config: &Config,
    checked: &Preflight,
    hooks: &Hooks,
    started: &Started,
    new_slot: bool,
    has_led: &mut bool,
) -> anyhow::Result<Running> {
    let observed = &started.observed;
    let lease::Leadership { mut target, waited } = if started.once {
        lease::Leadership { target: lease::lock_out_others(config).await?, waited: false }
    } else {
        lease::become_leader(config, observed).await?
    };
    let looked_again;
    let checked = if waited {
        looked_again = preflight::run(config, Depth::Start).await;
        if !may_set_aside(config, &looked_again).await {
            bail!("{}", looked_again.errors(false).join("; "));
        }
        &looked_again
    } else {
        checked
    };
    // From here on a failure is no reason to end: another instance may have ended our sessions.
    *has_led |= waited;
    metadata::migrate(config.target_settings(), &target).await.context("creating lockstep's own schema in the target")?;
    identities::give(&target).await.context("replica identities of lockstep's tables")?;
    let effective = Box::pin(lease::kept_during(config, async {
        versions::swap_ready(config, checked, &mut target).await?;
        versions::effective(config, checked, &target).await
    }))
    .await?;
    let mut in_force = InForce::new(config, checked, effective);
    let (wanted, planned, making) = in_force.parts();
    let installed = lease::kept_during(config, setup::install(wanted, planned, making, &mut target, new_slot)).await?;
    let grouped = by_group(wanted, planned);
    let source = planned.identity();
    let stream = StreamSettings {
        source: wanted.source.clone(),
        slot: wanted.slot.clone(),
        publication: wanted.publication.clone(),
        tracked: planned.tracked.clone(),
        identity: source.clone(),
        slot_lsn: installed.slot_lsn,
    };
    let wishes = grouped.iter().map(|group| interests(&group.members)).collect();
    let capture = Capture::start(stream, wishes, Limits { keys_max: DIRTY_KEYS_MAX });
    let boundaries = Boundaries::new(hooks.observer.clone(), observed.clone());
    let tables = installed.tables;
    let common = Common {
        config: wanted,
        hooks,
        registered: &tables.registered,
        leader_epoch: installed.leader_epoch,
        boundaries: &boundaries,
        source: source.clone(),
    };
    let mut members = Vec::new();
    for (index, group) in grouped.iter().enumerate() {
        let settings = common.settings(group, index, |_, _| tables.running.clone());
        let relations = interests(&group.members).iter().map(|interest| interest.oid).collect();
        members.push(Member::start(settings, &capture, identity(wanted, group), group.public(), relations));
    }
    in_force.signatures_are(tables.signatures);
    let leader_epoch = installed.leader_epoch;
    let giving_way = GivingWay::default();
    let mut running = Running {
        capture,
        source,
        target,
        leader_epoch,
        members,
        in_force,
        boundaries,
        giving_way,
        slot_was: (installed.slot_lsn, tokio::time::Instant::now()),
        postponed: None,
        monitor: None,
    };
    running.look_after(observed).await?;
    Ok(running)
}

impl Running {
    /// Tells those who look from outside what runs now.
    pub(super) async fn look_after(&mut self, observed: &Arc<Observed>) -> anyhow::Result<()> {
        let (config, checked, _) = self.in_force.parts();
        schedule::drop_unwanted(&self.target, &config.schema, &self.in_force.backed)
            .await
            .context("dropping views that are no longer wanted")?;
        let names: Vec<String> = self.members.iter().map(|member| member.name.clone()).collect();
        observed.groups_are(&names);
        observed.planned(preflight::plans(checked));
        let relations = checked.tracked.iter().map(|tracked| (tracked.oid, tracked.label())).collect();
        let groups = self.members.iter().map(|member| (member.index, member.name.clone(), member.status.clone())).collect();
        let broken = self.in_force.broken.clone();
        let monitor = monitor::run(config.clone(), self.capture.clone(), groups, relations, broken, observed.clone());
        if let Some(before) = self.monitor.replace(tokio::spawn(monitor)) {
            before.abort();
        }
        Ok(())
    }

    /// Setting up again has to wait; longer each time. Whether there is something new to say about it.
    pub(super) fn postpone(&mut self, reason: String, obstacle: String) -> bool {
        let before = self.postponed.take();
        let pause = before.as_ref().map_or(POSTPONED_FOR, |before| (before.pause * 2).min(POSTPONED_FOR_MAX));
        self.postponed = Some(Postponed { reason, obstacle, at: tokio::time::Instant::now() + pause, pause });
        before.is_none_or(|before| self.postponed.as_ref().is_some_and(|now| now.obstacle != before.obstacle))
    }

    /// The groups' statuses.
    pub(super) fn statuses(&self) -> Vec<watched::Receiver<GroupStatus>> {
        self.members.iter().map(|member| member.status.clone()).collect()
    }

    fn verifier(&self, catalogs: catalogs::Catalogs) -> Verifier {
        let groups = self.members.iter().map(|member| member.handle.clone()).collect();
        let (config, ..) = self.in_force.parts();
        Verifier {
            config: config.clone(),
            boundaries: self.boundaries.clone(),
            groups,
            giving_way: self.giving_way.clone(),
            catalogs,
        }
    }

    /// Until something ends it or is to be set up again; returns what.
    pub(super) async fn watch(
        &mut self,
        config: &Config,
        once: bool,
        mut stop: watched::Receiver<bool>,
        hooks: &Hooks,
        reload: &mut Reload,
    ) -> RoundEnd {
        let mut capture_status = self.capture.status();
        let statuses = self.statuses();
        let (catalogs, asked) = catalogs::Catalogs::new();
        let verifier = self.verifier(catalogs);
        let progress = tokio::spawn(progress::show(config.clone(), statuses.clone(), hooks.quiet));
        let requests = Box::pin(request_handler::follow(&self.target, &verifier));
        let upkeep = Box::pin(upkeep::follow(config));
        let names: Vec<String> = self.members.iter().map(|member| member.name.clone()).collect();
        let giving_way = Box::pin(self.giving_way.follow(config, &names));
        let backed = self.in_force.backed.clone();
        let schedule = Box::pin(async {
            if hooks.no_schedules {
                std::future::pending::<()>().await;
            }
            schedule::follow(&verifier, backed).await;
        });
        let (in_force, checked, making) = self.in_force.parts();
        let types = Box::pin(types::follow(in_force, &checked.planned));
        let postponed = self.postponed.as_ref();
        let schema = Box::pin(async {
            match postponed {
                // What is to be set up again is known; until then a look would say the same.
                Some(_) => std::future::pending().await,
                None => catalogs::schema(in_force, checked, &self.in_force.signatures, hooks.look_at_schema_every, asked).await,
            }
        });
        let due = async {
            match postponed {
                Some(postponed) => tokio::time::sleep_until(postponed.at).await,
                None => std::future::pending().await,
            }
        };
        let versions = Box::pin(versions::make_ready(&verifier, making, &statuses));
        let catching_up = catch_up(config, once, &self.target, statuses.clone());
        let mut tasks: Vec<_> = self.members.iter_mut().map(|member| &mut member.task).collect();
        // Where every projection is set aside there is no group.
        let ended = async { if tasks.is_empty() { std::future::pending().await } else { select_all(tasks.drain(..)).await.0 } };
        let end = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => RoundEnd::Stopped,
            reason = schema => RoundEnd::Renew(reason),
            () = types => RoundEnd::Again("the source's enums are followed no more".to_owned()),
            () = due => RoundEnd::Renew(postponed.map(|postponed| postponed.reason.clone()).unwrap_or_default()),
            () = schedule => RoundEnd::Again("schedules are followed no more".to_owned()),
            asked = requests => match asked {
                Asked::Renew(reason) => RoundEnd::Renew(reason),
                Asked::NewSlot => RoundEnd::NewSlot,
            },
            new = reload.wanted(config) => RoundEnd::Reloaded(Box::new(new)),
            never = upkeep => match never {},
            never = giving_way => match never {},
            reason = versions => RoundEnd::Renew(reason),
            reason = lease::keep(&self.target, self.leader_epoch, config.lease) => RoundEnd::Again(reason),
            () = closed(&self.target) => RoundEnd::Again("the session that holds the writer's lock ended".to_owned()),
            caught_up = catching_up => match caught_up {
                Ok(()) => RoundEnd::CaughtUp,
                Err(error) => RoundEnd::Failed(error),
            },
            ended = capture_status.wait_for(|status| matches!(status, CaptureStatus::Ended(_))) => match ended.as_deref() {
                Ok(CaptureStatus::Ended(end)) => RoundEnd::StreamEnded(end.clone()),
                Ok(CaptureStatus::Starting | CaptureStatus::Streaming | CaptureStatus::Reconnecting(_)) | Err(_) => {
                    RoundEnd::Again("the stream's task is gone".to_owned())
                }
            },
            ended = ended => match ended {
                Ok(GroupEnd::Failed(lockstep_refresh::BatchError::Capture(error))) => match stream_end(&self.capture) {
                    Some(end) => RoundEnd::StreamEnded(end),
                    None => RoundEnd::Again(error.to_string()),
                },
                Ok(GroupEnd::Failed(error @ lockstep_refresh::BatchError::Fenced)) => RoundEnd::Again(error.to_string()),
                Ok(GroupEnd::Failed(error)) if error.is_of_another_server() => RoundEnd::Again(error.to_string()),
                Ok(GroupEnd::Failed(error)) => RoundEnd::Failed(error.into()),
                Ok(GroupEnd::Stopped) => RoundEnd::Stopped,
                Err(error) => RoundEnd::Failed(anyhow::anyhow!("a group's task ended: {error}")),
            },
        };
        progress.abort();
        end
    }

    /// Where the slot was when it was set up, and how long ago.
    pub(super) fn slot_was(&self) -> Option<(Lsn, Duration)> {
        let (position, at) = self.slot_was;
        position.map(|position| (position, at.elapsed()))
    }

    /// Lets every group finish its batch, and ends the stream.
    pub(super) async fn finish(mut self) {
        if let Some(monitor) = self.monitor.take() {
            monitor.abort();
        }
        self.members.iter().for_each(Member::ask_to_stop);
        for member in self.members.iter_mut().filter(|member| !member.task.is_finished()) {
            member.stop_now().await;
        }
        // Before the lock: whoever has it next must not find a stream that nobody wants any more.
        self.capture.stop().await;
        lease::release(&self.target, self.leader_epoch).await;
    }
}

/// How the stream ended, if it has. Its groups may be the first to say so.
fn stream_end(capture: &Capture) -> Option<StreamEnd> {
    match &*capture.status().borrow() {
        CaptureStatus::Ended(end) => Some(end.clone()),
        CaptureStatus::Starting | CaptureStatus::Streaming | CaptureStatus::Reconnecting(_) => None,
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
