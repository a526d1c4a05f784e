//! Projections as those see them that read them: a table, its columns, and what identifies a row of it.

use lockstep_plan::facts::{Column, Identity, LOCATOR, OutputColumn, Relation, RelationKind};
use lockstep_plan::{Plan, RowKey};
use lockstep_refresh::analysis::StandIn;

use crate::report::Planned;

/// The stand-ins of projections.
pub(crate) fn stand_ins(read: &[&Planned]) -> Vec<StandIn> {
    read.iter().map(|planned| stand_in(planned)).collect()
}

/// A column's type, with the collation where it is not the type's.
fn declared(column: &OutputColumn) -> String {
    match &column.collation {
        Some(collation) => format!("{} COLLATE {collation}", column.type_name),
        None => column.type_name.clone(),
    }
}

/// The columns that identify a row where its hash does; none where one of them cannot be hashed.
fn whole_row(plan: &Plan) -> Vec<String> {
    let all_hashable = plan.columns.iter().all(|column| column.hashable);
    if all_hashable { plan.columns.iter().map(|column| column.name.clone()).collect() } else { Vec::new() }
}

/// A planned projection as those see it that read it.
fn stand_in(planned: &Planned) -> StandIn {
    let plan = &planned.plan;
    let located = |columns: Vec<String>| if columns.is_empty() { Vec::new() } else { vec![LOCATOR.to_owned()] };
    let (key, located_by) = match &plan.key {
        RowKey::Primary(columns) => (columns.clone(), Vec::new()),
        // Their columns may be NULL.
        RowKey::Located(columns) => (located(columns.clone()), columns.clone()),
        RowKey::Copies { .. } | RowKey::SingleRow if planned.part_of.is_some() => (located(whole_row(plan)), whole_row(plan)),
        RowKey::SingleRow | RowKey::Copies { .. } => (Vec::new(), Vec::new()),
    };
    let columns = plan
        .columns
        .iter()
        .map(|column| Column {
            name: column.name.clone(),
            type_name: declared(column),
            not_null: key.contains(&column.name),
            own_collation: column.collation.is_some(),
        })
        .collect();
    let relation = Relation {
        oid: planned.node,
        schema: planned.schema.clone(),
        name: plan.projection.clone(),
        kind: RelationKind::Projection,
        columns,
        children: Vec::new(),
        located_by,
        single_row: plan.key == RowKey::SingleRow,
        searchable: Vec::new(),
        indexes: if key.is_empty() { Vec::new() } else { vec![key.clone()] },
        orders: Vec::new(),
        identity: if key.is_empty() {
            Identity::FullRow { because: None }
        } else {
            Identity::Columns { columns: key, full: false }
        },
    };
    StandIn { projection: plan.projection.clone(), relation }
}

/// Lets those projections tell the keys they write that others read or follow.
pub(crate) fn mark_read(planned: &mut [Planned]) {
    let read: Vec<String> = planned.iter().flat_map(|planned| planned.reads.clone()).collect();
    for planned in planned {
        let keyed = match planned.plan.key {
            RowKey::Primary(_) | RowKey::Located(_) => true,
            RowKey::Copies { .. } | RowKey::SingleRow => planned.part_of.is_some() && !whole_row(&planned.plan).is_empty(),
        };
        planned.plan.reports_keys = keyed && (planned.feed || read.contains(&planned.plan.projection));
    }
}
