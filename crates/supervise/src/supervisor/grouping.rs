//! From planned projections to groups: who is in which, with what settings, and whose changes it wants.

use std::sync::Arc;
use std::time::Duration;

use lockstep_capture::{Interest, RunningTransactions};
use lockstep_config::Config;
use lockstep_connect::ServerIdentity;
use lockstep_plan::emit::Places;
use lockstep_plan::facts::RelationKind;
use lockstep_plan::{RelationRole, Role};
use lockstep_preflight::{Planned, Preflight};
use lockstep_refresh::{Configured, Endpoints, GroupSettings, Projection, RefreshOptions, Registered};

use crate::hooks::Hooks;
use crate::verification::boundaries::Boundaries;

/// What every group is started with.
pub(super) struct Common<'a> {
    pub(super) config: &'a Config,
    pub(super) hooks: &'a Hooks,
    pub(super) registered: &'a [Registered],
    pub(super) leader_epoch: i64,
    pub(super) boundaries: &'a Arc<Boundaries>,
    /// The server that the stream comes from.
    pub(super) source: ServerIdentity,
}

impl Common<'_> {
    /// What a group is started with. `awaits` tells which transactions a projection that is not live waits for.
    pub(super) fn settings(
        &self,
        group: &Grouped<'_>,
        index: usize,
        awaits: impl Fn(&Planned, &Registered) -> Option<RunningTransactions>,
    ) -> GroupSettings {
        let projection = |planned: &&Planned| {
            let registered = self.registered.iter().find(|registered| registered.name == planned.plan.projection)?;
            let configured = Configured {
                schema: planned.schema.clone(),
                indexes: indexes(planned),
                time_zone: planned.time_zone.clone(),
                on_error: planned.on_error,
                node: planned.node,
            };
            let projection = Projection::new(planned.plan.clone(), configured, registered);
            Some(projection.with_feed(planned.feed).awaiting(awaits(planned, registered)))
        };
        let config = self.config;
        GroupSettings {
            name: group.name.clone(),
            index,
            linger: group.linger,
            projections: group.members.iter().filter_map(projection).collect(),
            endpoints: Endpoints { source: config.source.expecting(self.source.clone()), target: config.target.clone() },
            places: Places { schema: config.schema.clone(), state_schema: "lockstep".to_owned() },
            options: RefreshOptions {
                time_resolution: config.time_resolution.unwrap_or(self.hooks.options.time_resolution),
                schedule: config.time_schedule.unwrap_or(self.hooks.options.schedule),
                ..self.hooks.options.clone()
            },
            leader_epoch: self.leader_epoch,
            observer: Some(self.boundaries.clone()),
        }
    }
}

/// Those of its table, and those that the old version's blocks lack, which it reads.
fn indexes(planned: &Planned) -> Option<String> {
    let all: Vec<&str> =
        [&planned.indexes, &planned.shared_indexes].into_iter().flatten().map(|sql| sql.trim_end_matches(['\n', ';'])).collect();
    (!all.is_empty()).then(|| all.join(";\n"))
}

/// A group to be.
pub(super) struct Grouped<'a> {
    pub(super) name: String,
    pub(super) linger: Duration,
    pub(super) members: Vec<&'a Planned>,
}

impl Grouped<'_> {
    /// Its projections that readers see.
    pub(super) fn public(&self) -> Vec<String> {
        let public = self.members.iter().filter(|planned| planned.part_of.is_none());
        public.map(|planned| planned.plan.projection.clone()).collect()
    }
}

/// The groups with their members.
pub(super) fn by_group<'a>(config: &Config, checked: &'a Preflight) -> Vec<Grouped<'a>> {
    let mut groups: Vec<Grouped<'a>> = Vec::new();
    for planned in &checked.planned {
        match groups.iter_mut().find(|group| group.name == planned.group) {
            Some(group) => group.members.push(planned),
            None => {
                let configured = config.groups.iter().find(|group| group.name == planned.group);
                let linger = configured.map_or(Duration::ZERO, |group| group.linger);
                groups.push(Grouped { name: planned.group.clone(), linger, members: vec![planned] });
            }
        }
    }
    groups
}

/// A relation's keys are wanted if some incremental projection of the group traces them.
pub(super) fn interests(members: &[&Planned]) -> Vec<Interest> {
    let mut interests: Vec<Interest> = Vec::new();
    for planned in members {
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
