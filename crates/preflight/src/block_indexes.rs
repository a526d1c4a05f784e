//! The indexes that plans want on the hidden tables of their blocks are made with them.

use lockstep_plan::{FirstRows, Maintenance, Plan, Purpose, WantedIndex, WholePlan, indexes_for, quote};

use crate::report::Planned;

/// Where hidden state and inner projections are.
pub(crate) const STATE_SCHEMA: &str = "lockstep";

/// Lets the blocks of a plan have what it wants; what remains is for the source. Returns what is to be made of `shared` ones beside.
pub(crate) fn make_indexes(plan: &mut Plan, inner: &mut [Planned], shared: &[&Planned]) -> Option<String> {
    let read: Vec<u32> = plan.relations.iter().map(|relation| relation.oid).collect();
    let mut lacking = String::new();
    let mut make = |index: &WantedIndex| {
        let is_its = |planned: &Planned| {
            index.schema == STATE_SCHEMA && index.table == planned.plan.projection && read.contains(&planned.node)
        };
        if let Some(block) = shared.iter().find(|planned| is_its(planned)) {
            let made = block.indexes.as_deref().unwrap_or_default();
            let statement = statement(index, &block.plan).filter(|statement| !made.contains(statement));
            // They are made with another projection's, whose schema is another.
            let elsewhere = statement.and_then(|statement| {
                indexes_for(&statement, &index.table, STATE_SCHEMA, &index.table, "").ok()?.into_iter().next()
            });
            lacking.extend(elsewhere.filter(|new| !lacking.contains(new)).map(|new| format!("{new};\n")));
            return true;
        }
        let Some(block) = inner.iter_mut().find(|planned| is_its(planned)) else { return false };
        if let Some(statement) = statement(index, &block.plan) {
            let indexes = block.indexes.get_or_insert_default();
            if !indexes.contains(&statement) {
                indexes.push_str(&statement);
                indexes.push('\n');
            }
        }
        true
    };
    if let Maintenance::Whole(WholePlan { first: Some(FirstRows { index: Some(index), .. }), .. }) = &plan.maintenance {
        make(index);
    }
    for role in plan.branches_mut().iter_mut().flat_map(|branch| &mut branch.roles) {
        role.missing_indexes.retain(|index| !make(index));
    }
    (!lacking.is_empty()).then_some(lacking)
}

/// The statement that makes an index of a block; none where it might fail.
fn statement(index: &WantedIndex, block: &Plan) -> Option<String> {
    let method = match (index.purpose, index.keys.as_slice()) {
        (Purpose::Expressions, _) => return None,
        // What is compared for equality alone may be longer than a B-tree takes.
        (Purpose::Equality, [only]) if is_of_any_length(only, block) => "USING hash ",
        (Purpose::Equality | Purpose::Order | Purpose::Overlap | Purpose::Elements, _) => index.method(),
    };
    Some(format!("CREATE INDEX ON {} {method}({});", quote::identifier(&index.table), index.keys.join(", ")))
}

fn is_of_any_length(key: &str, block: &Plan) -> bool {
    let column = block.columns.iter().find(|column| quote::identifier(&column.name) == key);
    column.is_some_and(|column| {
        column.hashable && ["text", "bytea", "character varying", "jsonb"].contains(&column.type_name.as_str())
    })
}
