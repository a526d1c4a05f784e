//! By what a projection is known to be the same as before.

use lockstep_capture::{Signature, Tracked};
use lockstep_preflight::Planned;
use sha2::{Digest as _, Sha256};

use super::followed::relation_signatures;

/// Part of every fingerprint: raise it when the same plan would make different tables.
const TABLE_FORMAT: &str = "2";

/// Everything that, when it changes, makes the tables' contents or form wrong.
pub(crate) fn fingerprint(planned: &Planned, all: &[Planned]) -> String {
    let plan = &planned.plan;
    let read = all.iter().filter(|other| planned.reads.contains(&other.plan.projection));
    let read: Vec<String> = read.map(|other| fingerprint(other, all)).collect();
    let text = format!(
        "{TABLE_FORMAT}\n{}\n{}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{read:?}",
        plan.query,
        planned.time_zone,
        plan.columns,
        plan.key,
        plan.declared_key,
        plan.state_tables(),
        planned.indexes
    );
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that, when it changes, makes a view of the same query another one: it is bound to columns by number.
pub(crate) fn view_fingerprint(planned: &Planned, all: &[Planned], tracked: &[Tracked], signatures: &[Signature]) -> String {
    let tables = relation_signatures(planned, tracked, signatures);
    let text = format!("{} {tables:?}", fingerprint(planned, all));
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
