//! What the tables of a projection claim to hold, for verification.

use crate::observer::{LiveClaim, LiveProjection};
use crate::projection::{Projection, Tracing};
use crate::quarantine::{Key, Part};
use crate::suspects::SuspectKind;
use lockstep_plan::emit::{HiddenClaim, Places};
use lockstep_plan::facts::{OutputColumn, RelationKind};
use lockstep_plan::{Maintenance, Plan, Trace, at_time, quote};
use lockstep_plan::{RowKey, emit};

impl Projection {
    /// As it is seen from outside in a batch at this time.
    pub(crate) fn live_view(&self, time: &str, with_claims: bool) -> LiveProjection {
        let columns: Vec<OutputColumn> = self.plan.columns.clone();
        let on_target = self.plan.relations.iter().any(|relation| relation.kind == RelationKind::Projection)
            && self.plan.definition == self.plan.query;
        LiveProjection {
            name: self.name().to_owned(),
            query: self.plan.definition.clone(),
            query_at: self.plan.definition_at(time),
            columns,
            on_target,
            schema: self.schema.clone(),
            time_zone: self.time_zone.clone(),
            depends_on_time: self.due_at.is_some(),
            quarantined: self.quarantine.len(),
            claims: if with_claims { claims(self, on_target, time) } else { Vec::new() },
            part_of: self.part_of.clone(),
        }
    }
}

/// The claims of a live projection, at a batch's time.
fn claims(projection: &Projection, on_target: bool, time: &str) -> Vec<LiveClaim> {
    let plan = &projection.plan;
    let places = Places { schema: projection.schema.clone(), state_schema: "lockstep".to_owned() };
    let (suspect, suspect_columns) = rows_refreshed(plan);
    let columns: Vec<String> = plan.columns.iter().map(|column| column.name.clone()).collect();
    let key = match &plan.key {
        RowKey::Primary(key) | RowKey::Located(key) => key.clone(),
        RowKey::SingleRow => Vec::new(),
        RowKey::Copies { .. } => columns.clone(),
    };
    let part = match suspect {
        SuspectKind::Root(branch) => Part::Branch(branch),
        SuspectKind::Group
        | SuspectKind::AllGroups
        | SuspectKind::Link(..)
        | SuspectKind::Accumulator
        | SuspectKind::Everything => Part::Groups,
    };
    let (table, definition) = rows_compared(projection, time);
    let rows = LiveClaim {
        part: "rows".to_owned(),
        table,
        definition,
        on_target,
        without: (suspect_columns.clone(), projection.quarantine.keys(part)),
        obstacle: projection
            .quarantine
            .has_other_than(part)
            .then(|| "groups are not compared while keys of their rows are in quarantine".to_owned()),
        columns,
        key,
        suspect_columns,
        suspect,
    };
    let hidden_on_target = plan.reads_projections_only();
    let mut all = vec![rows];
    for (number, branch) in plan.branches().iter().enumerate() {
        let quarantined = projection.quarantine.keys(Part::Branch(number));
        if let Some(state) = &branch.contributions {
            // Replacing the time means parsing, which is dear where it is not needed.
            let asks_for_time = plan.definition_at.is_some();
            let query = if asks_for_time { at_time(&branch.query, time) } else { branch.query.clone() };
            let claim = emit::contribution_claim(state, &query, &places);
            let key = if state.many_per_key { state.columns.clone() } else { state.key.clone() };
            let without = (state.key.clone(), quarantined);
            all.push(hidden(&state.name, claim, hidden_on_target, key, SuspectKind::Root(number), without));
        }
        for (index, role) in branch.roles.iter().enumerate() {
            let Trace::Link(link) = &role.trace else { continue };
            if projection.tracing == Tracing::GivenUp {
                continue;
            }
            let claim = emit::link_claim(link, &places);
            let key = link.state.key.clone();
            let nothing = (Vec::new(), Vec::new());
            all.push(hidden(&link.state.name, claim, hidden_on_target, key, SuspectKind::Link(number, index), nothing));
        }
    }
    if let Maintenance::Grouped(grouped) = &plan.maintenance
        && let Some(accumulators) = &grouped.accumulators
    {
        for claim in emit::accumulator_claims(grouped, accumulators, &places) {
            let key = claim.columns[..claim.identity].to_vec();
            all.push(hidden("accumulators", claim, true, key, SuspectKind::Accumulator, (Vec::new(), Vec::new())));
        }
    }
    all
}

/// The table and its query. Equal numerics of a group may be written with different scales, and which one stands for the group is not
/// determined: they are compared without trailing zeros. Floats that were added up are compared to eleven digits.
fn rows_compared(projection: &Projection, time: &str) -> (String, String) {
    let plan = &projection.plan;
    let table = quote::qualified(&projection.schema, projection.name());
    let definition = plan.definition_at(time);
    let loose = |name: &String, type_name: &str| {
        matches!(&plan.key, RowKey::Located(key) if key.contains(name)) && type_name == "numeric"
    };
    // The sum of floats depends on the order in which they are added.
    let rows_as_they_are = matches!(&plan.maintenance, Maintenance::Row(_));
    let float = |name: &String, type_name: &str| {
        !rows_as_they_are && !plan.key.columns().contains(name) && matches!(type_name, "double precision" | "real")
    };
    if !plan.columns.iter().any(|column| loose(&column.name, &column.base_type) || float(&column.name, &column.base_type)) {
        return (table, definition);
    }
    let list: Vec<String> = plan
        .columns
        .iter()
        .map(|column| {
            let name = quote::identifier(&column.name);
            if loose(&column.name, &column.base_type) {
                format!("trim_scale({name}) AS {name}")
            } else if float(&column.name, &column.base_type) {
                format!("{} AS {name}", eleven_digits(&name))
            } else {
                name
            }
        })
        .collect();
    let list = list.join(", ");
    let body = definition.trim().trim_end_matches(';');
    (format!("(SELECT {list} FROM {table})"), format!("SELECT {list} FROM (\n{body}\n) AS defined"))
}

/// A float to eleven significant digits.
fn eleven_digits(name: &str) -> String {
    format!(
        "CASE WHEN abs({name}) BETWEEN 1e-300 AND 1e300
              THEN round({name}::numeric, 10 - floor(log(abs({name}::numeric)))::integer)::double precision ELSE {name} END"
    )
}

fn hidden(
    name: &str,
    claim: HiddenClaim,
    on_target: bool,
    key: Vec<String>,
    suspect: SuspectKind,
    without: (Vec<String>, Vec<Key>),
) -> LiveClaim {
    LiveClaim {
        part: name.to_owned(),
        table: claim.held,
        definition: claim.definition,
        on_target,
        suspect_columns: claim.columns[..claim.identity].to_vec(),
        columns: claim.columns,
        key,
        suspect,
        without,
        obstacle: None,
    }
}

/// What a row of the projection's own table that differs asks for, and the columns that tell it.
pub fn rows_refreshed(plan: &Plan) -> (SuspectKind, Vec<String>) {
    match &plan.maintenance {
        Maintenance::Row(_) if plan.owner.is_empty() => (SuspectKind::Root(0), plan.key.columns().to_vec()),
        Maintenance::Row(_) => (SuspectKind::Root(0), plan.owner.clone()),
        Maintenance::Grouped(grouped) if grouped.found_by_root || grouped.group_columns.is_empty() => {
            (SuspectKind::AllGroups, Vec::new())
        }
        Maintenance::Grouped(_) => (SuspectKind::Group, plan.key.columns().to_vec()),
        Maintenance::Whole(_) => (SuspectKind::Everything, Vec::new()),
    }
}
