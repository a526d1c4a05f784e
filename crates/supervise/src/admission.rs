//! What may fail without keeping the rest.

use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_preflight::Preflight;

/// Whether nothing stands in the way, or only what concerns projections that worked before: those are set aside. A new projection must
/// work.
pub async fn may_set_aside(config: &Config, checked: &Preflight) -> bool {
    if checked.passed() || !checked.only_queries_fail() {
        return checked.passed();
    }
    let Ok(target) = Session::open(config.target_settings(), "lockstep check").await else { return false };
    // Nothing is set up where the table is missing.
    let Ok(rows) = target.query("SELECT name FROM lockstep.projection", &[]).await else { return false };
    let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let fails = |name: &String| checked.failure_of(name).is_some();
    config.projections.iter().map(|projection| &projection.name).filter(|name| fails(name)).all(|name| known.contains(name))
}
