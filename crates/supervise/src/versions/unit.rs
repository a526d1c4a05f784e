//! Projections that read each other change together.

use lockstep_preflight::Planned;

use crate::setup::version::Making;

/// Whether a projection reads one of those, itself or by way of others.
pub(super) fn reads_any(name: &str, read: &[&str], planned: &[Planned]) -> bool {
    let Some(found) = planned.iter().find(|planned| planned.plan.projection == name) else { return false };
    found.reads.iter().any(|found| read.contains(&found.as_str()) || reads_any(found, read, planned))
}

/// Gives all that are connected by reading each other the same number.
pub(super) fn number(making: &mut [Making], planned: &[Planned]) {
    making.iter_mut().enumerate().for_each(|(index, made)| made.unit = index);
    for reader in 0..making.len() {
        for read in 0..making.len() {
            if reads_any(&making[reader].replaces, &[making[read].replaces.as_str()], planned) {
                let (keep, gone) = (making[read].unit, making[reader].unit);
                making.iter_mut().filter(|made| made.unit == gone).for_each(|made| made.unit = keep);
            }
        }
    }
}
