//! From planned projections to groups: who is in which, with what settings, and whose changes it wants.

use std::sync::Arc;
use std::time::Duration;

use lockstep_capture::Interest;
use lockstep_plan::facts::RelationKind;
use lockstep_plan::sql::Places;
use lockstep_plan::{RelationRole, Role};
use lockstep_refresh::{Endpoints, GroupSettings, Projection, RefreshOptions, Registered};

use super::Hooks;
use crate::boundaries::Boundaries;
use crate::config::Config;
use crate::preflight::{Planned, Preflight};

/// What a group is started with.
pub(super) fn group_settings(
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

/// A group to be.
pub(super) struct Grouped<'a> {
    pub(super) name: String,
    linger: Duration,
    pub(super) members: Vec<(&'a Planned, &'a Registered)>,
}

/// The groups with their members.
pub(super) fn by_group<'a>(config: &Config, checked: &'a Preflight, registered: &'a [Registered]) -> Vec<Grouped<'a>> {
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
pub(super) fn interests(members: &[(&Planned, &Registered)]) -> Vec<Interest> {
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
