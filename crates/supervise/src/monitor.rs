//! Gauges: what changes without a batch. Looked up every second, and on the source every five.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_capture::{Capture, slot_state};
use lockstep_config::Config;
use lockstep_connect::Session;
use lockstep_observe::{Look, Observed, Slot};
use lockstep_refresh::{GroupStatus, ProjectionState};
use lockstep_wal::Lsn;
use tokio::sync::watch;

use crate::verification::drift;

const INTERVAL: Duration = Duration::from_secs(1);

/// The slot is looked at every so many intervals.
const SLOT_EVERY: u64 = 5;

/// Runs until aborted. `groups` are those of capture, with their index there; `relations` gives the label of each followed relation; `broken` the group and name of each projection that
/// cannot even be planned, so that no group has it.
pub(crate) async fn run(
    config: Config,
    capture: Capture,
    groups: Vec<(usize, String, watch::Receiver<GroupStatus>)>,
    relations: HashMap<u32, String>,
    broken: Vec<(String, String)>,
    observed: Arc<Observed>,
) {
    let mut source: Option<Session> = None;
    let mut source_lsn = Lsn::ZERO;
    let mut positions: Vec<Option<Lsn>> = vec![None; groups.len()];
    observed.follow(currency(&capture, &groups));
    for round in 0_u64.. {
        let asked_at = Instant::now();
        match look_at_source(&config, &mut source, round % SLOT_EVERY == 0, &observed).await {
            Ok((lsn, standby_names)) => {
                source_lsn = lsn;
                capture.note_source_position(lsn, asked_at);
                capture.note_standby_names(&standby_names);
            }
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "monitor");
                source = None;
            }
        }
        let aside = capture.stands_aside();
        metrics::gauge!("lockstep_stands_aside").set(f64::from(u8::from(aside)));
        observed.stands_aside(aside);
        for ((index, name, status), held) in groups.iter().zip(&mut positions) {
            let status = status.borrow();
            // Of a group that is set aside the position stays where it was, if that is known.
            if !is_set_aside(&status) {
                *held = Some(position_of(&capture, *index, &status));
            }
            let position = held.filter(|position| *position > Lsn::ZERO);
            let lag = position.map(|position| source_lsn.bytes_since(position));
            let waiting = capture.with_group(*index, |dirty| dirty.waiting_keys_by_relation());
            group_gauges(&status, lag, &waiting, &relations);
            observed.group(name, None, lag, waiting.values().sum());
        }
        drift::tell();
        for (group, projection) in &broken {
            state_gauges(group, projection, ProjectionState::Faulted);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether nothing of a group is maintained: its position goes on, and its read models do not follow.
fn is_set_aside(status: &GroupStatus) -> bool {
    let mut public = status.projections.iter().filter(|projection| !projection.in_making).peekable();
    public.peek().is_some() && public.all(|projection| projection.state == ProjectionState::Faulted)
}

/// When a group was last known to be current, for whoever asks: with nothing waiting it is where the stream is.
fn currency(capture: &Capture, groups: &[(usize, String, watch::Receiver<GroupStatus>)]) -> Look {
    let (capture, groups) = (capture.clone(), groups.to_vec());
    Arc::new(move |name| {
        let (index, _, status) = groups.iter().find(|(_, group, _)| group == name)?;
        if is_set_aside(&status.borrow()) {
            return None;
        }
        capture.with_group(*index, |dirty| dirty.oldest_waiting_since()).or_else(|| capture.current_as_of())
    })
}

/// With nothing waiting the group is where the stream is.
fn position_of(capture: &Capture, index: usize, status: &GroupStatus) -> Lsn {
    let contained = status.contained_lsn.unwrap_or_default();
    let waits = capture.with_group(index, |dirty| dirty.oldest_waiting_since().is_some());
    if waits { contained } else { capture.received().max(contained) }
}

async fn look_at_source(
    config: &Config,
    source: &mut Option<Session>,
    slot_too: bool,
    observed: &Observed,
) -> anyhow::Result<(Lsn, String)> {
    let session = match source {
        Some(session) if !session.is_closed() => session,
        _ => source.insert(Session::open(&config.source, "lockstep monitor").await?),
    };
    if slot_too {
        let state = slot_state(session, &config.slot).await?;
        let active = state.as_ref().is_some_and(|state| state.active_pid.is_some());
        metrics::gauge!("lockstep_slot_active").set(f64::from(u8::from(active)));
        observed.slot(state.as_ref().map(|state| Slot {
            name: config.slot.clone(),
            active,
            wal_status: state.wal_status.clone(),
            retained_bytes: state.retained_bytes,
            safe_bytes: state.safe_bytes.unwrap_or(-1),
        }));
        let Some(state) = state else { return position(session).await };
        metrics::gauge!("lockstep_slot_retained_bytes").set(float(state.retained_bytes));
        metrics::gauge!("lockstep_slot_safe_bytes").set(state.safe_bytes.map_or(-1.0, float));
    }
    position(session).await
}

/// Where the WAL ends, and who is to be a synchronous standby.
async fn position(session: &Session) -> anyhow::Result<(Lsn, String)> {
    let row = session.query_one("SELECT pg_current_wal_lsn()::text, current_setting('synchronous_standby_names')", &[]).await?;
    Ok((row.get::<_, &str>(0).parse()?, row.get(1)))
}

/// Tells how a group fares. `waiting` is how many dirty keys of each relation wait for it.
fn group_gauges(status: &GroupStatus, lag: Option<u64>, waiting: &HashMap<u32, usize>, relations: &HashMap<u32, String>) {
    let group = status.name.clone();
    for (oid, label) in relations {
        let keys = waiting.get(oid).copied().unwrap_or_default();
        metrics::gauge!("lockstep_dirty_keys", "group" => group.clone(), "relation" => label.clone()).set(count(keys));
    }
    if let Some(lag) = lag {
        metrics::gauge!("lockstep_lag_bytes", "group" => group.clone()).set(unsigned(lag));
    }
    for projection in &status.projections {
        state_gauges(&group, &projection.name, projection.state);
        let name = projection.name.clone();
        metrics::gauge!("lockstep_quarantined_keys", "projection" => name).set(count(projection.quarantined));
        metrics::gauge!("lockstep_projection_rows", "projection" => projection.name.clone()).set(float(projection.rows));
    }
}

fn state_gauges(group: &str, projection: &str, now: ProjectionState) {
    for state in ProjectionState::ALL {
        let labels = [("group", group.to_owned()), ("projection", projection.to_owned()), ("state", state.name().to_owned())];
        metrics::gauge!("lockstep_projection_state", &labels).set(f64::from(u8::from(now == state)));
    }
}

/// Gauges are floating point; beyond 2^53 they lose the last digits, which no dashboard shows.
#[allow(clippy::cast_precision_loss)]
fn float(value: i64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
fn unsigned(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
fn count(value: usize) -> f64 {
    value as f64
}
