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

/// A group that stands still: where it is in capture, what it was made of, and what it heard of.
struct Vacant {
    name: String,
    index: usize,
    projections: Vec<String>,
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
            for group in &mut vacant {
                group.projections.extend(versions::places_taken(&names, &group.projections));
            }
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
        // All before one runs that may take what another is to have.
        let places: Vec<(usize, Vec<u32>)> = to_start.iter().map(|group| self.place(group, &vacant)).collect();
        for (group, (index, heard_of)) in to_start.into_iter().zip(places) {
            let relations = interests(&group.members).iter().map(|interest| interest.oid).collect();
            let awaits = |planned: &Planned, registered: &Registered| {
                running.clone().filter(|_| has_to_wait(planned, registered, &heard_of))
            };
            let settings = common.settings(group, index, awaits);
            self.members.push(Member::start(settings, &self.capture, identity(wanted, group), group.public(), relations));
        }
        for gone in vacant.iter().filter(|gone| !self.members.iter().any(|member| member.index == gone.index)) {
            self.capture.remove_group(gone.index);
        }
        in_force.signatures_are(tables.signatures);
        self.in_force = in_force;
        self.postponed = None;
        self.look_after(observed).await
    }

    /// The place in capture of a group that starts, and the relations that its projections heard of. What arrived for them meanwhile
    /// waits where they were before, under another name, perhaps, or in another group.
    fn place(&self, group: &Grouped<'_>, vacant: &[Vacant]) -> (usize, Vec<u32>) {
        let wishes = interests(&group.members);
        let own = vacant.iter().find(|vacant| vacant.name == group.name);
        let index = match own {
            Some(own) => {
                self.capture.change_group(own.index, wishes);
                own.index
            }
            None => self.capture.add_group(wishes),
        };
        let mut heard_of = own.map(|own| own.relations.clone()).unwrap_or_default();
        let held = |vacant: &&Vacant| group.members.iter().any(|planned| vacant.projections.contains(&planned.plan.projection));
        for before in vacant.iter().filter(held).filter(|before| before.index != index) {
            self.capture.inherit(before.index, index);
            heard_of.extend(&before.relations);
        }
        (index, heard_of)
    }

    /// Stops groups; their places in capture stay, and go on collecting. Whether there were any.
    async fn stop(&mut self, vacant: &mut Vec<Vacant>, concerned: impl Fn(&Member) -> bool) -> anyhow::Result<bool> {
        let before = vacant.len();
        while let Some(position) = self.members.iter().position(&concerned) {
            self.members[position].stop_in_order().await?;
            let member = self.members.remove(position);
            let Member { name, index, projections, relations, .. } = member;
            vacant.push(Vacant { name, index, projections, relations });
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
