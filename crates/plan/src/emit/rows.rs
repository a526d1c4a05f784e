//! The refresh statements of each kind of projection.

use super::merge::{self, Merge, Target, same_key};
use super::parts::{Fresh, Places, TracedKeys, dirty_cte, fresh_cte, names, nothing, staged};
use crate::model::plan::{Branch, Plan};
use crate::model::quote;
use crate::model::row_key::RowKey;

/// The fresh rows of a row projection; for bound keys those of the CTE `dirty`.
pub(super) fn row_query(plan: &Plan, row: &Branch, places: &Places, keys: TracedKeys, fresh: &Fresh) -> String {
    let columns = names(plan);
    match (fresh, keys) {
        (Fresh::Query, TracedKeys::Bound) => row.dirty_query.clone(),
        (Fresh::Query, TracedKeys::Everything) => row.query.clone(),
        (Fresh::Staged(stage), _) => staged(stage, &columns),
        (Fresh::Nothing, _) => nothing(&quote::qualified(&places.schema, &plan.projection), &columns),
    }
}

/// Refreshes a row projection.
pub fn row_merge(plan: &Plan, row: &Branch, places: &Places, keys: TracedKeys, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let query = row_query(plan, row, places, keys, fresh);
    // A declared key does not follow from the root's: its rows may meet.
    let check_duplicates = !plan.owner.is_empty();
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates,
        report: plan.reports_keys,
    };
    let fresh = fresh_cte(&columns, &query);
    match keys {
        TracedKeys::Bound => {
            let owner = if plan.owner.is_empty() { plan.key.columns() } else { &plan.owner };
            let dirty: Vec<String> = (1..=owner.len()).map(|n| format!("k{n}")).collect();
            // Copies are found by the index on the hash; a primary key and the owner have an index of their own.
            let by = if plan.owner.is_empty() { plan.key.clone() } else { RowKey::Primary(Vec::new()) };
            let condition = same_key("t", "dirty", owner, &dirty, &by);
            merge::merge(&[dirty_cte(&row.root), fresh], &target, Some(("dirty", &condition)))
        }
        TracedKeys::Everything => merge::merge(&[fresh], &target, None),
    }
}

/// All fresh rows of a whole projection.
pub(super) fn whole_query(plan: &Plan, places: &Places, fresh: &Fresh) -> String {
    let columns = names(plan);
    match fresh {
        Fresh::Query => plan.query.clone(),
        Fresh::Staged(stage) => staged(stage, &columns),
        Fresh::Nothing => nothing(&quote::qualified(&places.schema, &plan.projection), &columns),
    }
}

/// Refreshes a whole projection.
pub fn whole_merge(plan: &Plan, places: &Places, fresh: &Fresh) -> Merge {
    let columns = names(plan);
    let table = quote::qualified(&places.schema, &plan.projection);
    let query = whole_query(plan, places, fresh);
    let target = Target {
        table: &table,
        columns: &columns,
        key: &plan.key,
        owner: &plan.owner,
        check_duplicates: plan.key_needs_check,
        report: plan.reports_keys,
    };
    merge::merge(&[fresh_cte(&columns, &query)], &target, None)
}
