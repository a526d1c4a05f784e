//! Setting up again in place: what has changed is set up beside what runs, and only the groups that are concerned stop for a moment.
//!
//! ```text
//!   plan ──► swap versions that are ready ──► register, publish ──► follow ──► start the groups that are new or changed
//!            (their groups stand still)       (groups concerned)    (one stream, which runs on)
//! ```
//!
//! What a new table's running transactions did is in no stream: the projection that reads it waits for them, alone.

use std::sync::Arc;

use anyhow::Context as _;
use lockstep_capture::RunningTransactions;
use lockstep_config::Config;
use lockstep_observe::Observed;
use lockstep_plan::facts::RelationKind;
use lockstep_preflight::{Planned, Preflight};
use lockstep_refresh::{ProjectionState, Registered, load_registered};

use super::active_setup::InForce;
use super::grouping::{Common, Grouped, by_group, interests};
use super::member::{Member, identity};
use super::running::Running;
use crate::hooks::Hooks;
use crate::setup::followed;
use crate::{setup, versions};

/// A group that stands still: where it is in capture, and what it heard of.
struct Vacant {
    name: String,
    index: usize,
    relations: Vec<u32>,
}

impl Running {
    /// Sets up what is configured and planned now.
    ///
    /// # Errors
    /// Something could not be done. Groups may stand still then: everything has to be set up anew.
    pub(super) async fn renew(
        &mut self,
        config: &Config,
        checked: &Preflight,
        hooks: &Hooks,
        observed: &Arc<Observed>,
    ) -> anyhow::Result<()> {
        let mut vacant = Vec::new();
        for names in versions::ready(config, checked, &self.target).await? {
            self.stop(&mut vacant, |member| versions::concerns(&names, &member.projections)).await?;
            versions::swap_in_place(config, &mut self.target, &names).await?;
        }
        let effective = Box::pin(versions::effective(config, checked, &self.target)).await?;
        let mut in_force = InForce::new(config, checked, effective);
        let (wanted, planned, making) = in_force.parts();
        let grouped = by_group(wanted, planned);
        let degraded = followed::have_missed_changes(wanted, planned, &self.target).await?;
        let same = |member: &Member| {
            let as_before = |group: &Grouped<'_>| group.name == member.name && identity(wanted, group) == member.identity;
            grouped.iter().any(as_before) && !member.projections.iter().any(|name| degraded.contains(name))
        };
        self.stop(&mut vacant, |member| !same(member)).await?;
        let (mut tables, changed) = setup::renew(wanted, planned, making, &mut self.target, self.leader_epoch).await?;
        if self.stop(&mut vacant, |member| member.projections.iter().any(|name| changed.contains(name))).await? {
            // They may have recorded themselves as live since.
            for name in &changed {
                followed::mark_stale(&self.target, Some(name), followed::CHANGED_MEANWHILE).await?;
            }
            tables.registered = load_registered(&self.target).await?;
        }
        self.capture.follow(&planned.tracked);
        // What ran when everything was published runs no longer than what runs when it is followed.
        let running = match &tables.running {
            Some(_) => Some(running_now(wanted).await?),
            None => None,
        };
        let common = Common {
            config: wanted,
            hooks,
            registered: &tables.registered,
            leader_epoch: self.leader_epoch,
            boundaries: &self.boundaries,
            source: self.source.clone(),
        };
        let goes_on = |group: &Grouped<'_>| self.members.iter().any(|member| member.name == group.name);
        let to_start: Vec<&Grouped<'_>> = grouped.iter().filter(|group| !goes_on(group)).collect();
        for group in to_start {
            let wishes = interests(&group.members);
            let before = vacant.iter().position(|vacant| vacant.name == group.name).map(|position| vacant.remove(position));
            let relations = wishes.iter().map(|interest| interest.oid).collect();
            let (index, heard_of) = match before {
                Some(before) => {
                    self.capture.change_group(before.index, wishes);
                    (before.index, before.relations)
                }
                None => (self.capture.add_group(wishes), Vec::new()),
            };
            let awaits = |planned: &Planned, registered: &Registered| {
                running.clone().filter(|_| has_to_wait(planned, registered, &heard_of))
            };
            let settings = common.settings(group, index, awaits);
            self.members.push(Member::start(settings, &self.capture, identity(wanted, group), group.public(), relations));
        }
        for gone in vacant {
            self.capture.remove_group(gone.index);
        }
        in_force.signatures_are(tables.signatures);
        self.in_force = in_force;
        self.postponed = None;
        self.look_after(observed).await
    }

    /// Stops groups; their places in capture stay, and go on collecting. Whether there were any.
    async fn stop(&mut self, vacant: &mut Vec<Vacant>, concerned: impl Fn(&Member) -> bool) -> anyhow::Result<bool> {
        let before = vacant.len();
        while let Some(position) = self.members.iter().position(&concerned) {
            self.members[position].stop_in_order().await?;
            let member = self.members.remove(position);
            vacant.push(Vacant { name: member.name, index: member.index, relations: member.relations });
        }
        Ok(vacant.len() > before)
    }
}

/// Whether something that a projection reads may have been changed unseen by transactions that run: its group has not heard of it
/// before, or it was not published for a while.
fn has_to_wait(planned: &Planned, registered: &Registered, heard_of: &[u32]) -> bool {
    let tables = planned.plan.relations.iter().filter(|relation| relation.kind != RelationKind::Projection);
    let new = tables.map(|relation| relation.oid).any(|oid| !heard_of.contains(&oid));
    match registered.state {
        ProjectionState::Live => false,
        ProjectionState::Registered | ProjectionState::Building => new,
        ProjectionState::Degraded | ProjectionState::Faulted => true,
    }
}

async fn running_now(config: &Config) -> anyhow::Result<RunningTransactions> {
    let source = lockstep_connect::Session::open(&config.source, "lockstep").await.context("source")?;
    Ok(RunningTransactions::of_now(&source).await?)
}
