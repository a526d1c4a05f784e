//! What is observed while it runs, now and over the last hour: for the page, and for gauges that must go on when nothing else does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

/// What it means that the stream stands aside.
const ASIDE: &str = "synchronous_standby_names would make commits wait for this stream, which stands aside: only the real \
     standbys count. lockstep check prints the statement that names them";

/// How often it looks.
const TICK: Duration = Duration::from_secs(1);

/// A point of the history is of so many ticks.
const STEP: u32 = 5;

/// An hour of points.
const POINTS_MAX: usize = 720;

/// Freshness is kept of so many transactions of a point; more do not change what is shown.
const FRESHNESS_MAX: usize = 5_000;

/// The state of this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Instance {
    #[default]
    /// Nothing runs yet.
    Starting,
    /// It writes.
    Leading,
    /// Another instance writes.
    Standby,
    /// What ran has ended; it is set up again.
    SettingUpAgain,
}

impl Instance {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Leading => "leading",
            Self::Standby => "standby",
            Self::SettingUpAgain => "setting up again",
        }
    }
}

/// The slot as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody streams from it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// WAL that it keeps the source from recycling, in bytes.
    pub retained_bytes: i64,
    /// -1 without a limit.
    pub safe_bytes: i64,
}

#[derive(Debug, Default)]
struct Group {
    /// When its read models were last known to be current.
    as_of: Option<Instant>,
    lag_bytes: Option<u64>,
    dirty_keys: usize,
    /// Seconds from commit to visible, since the last point.
    fresh: Vec<f64>,
    /// The median and the 99th percentile of the last point that had any, in milliseconds.
    shown: Option<(f64, f64)>,
    points: VecDeque<Point>,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    at: f64,
    staleness_seconds: Option<f64>,
    freshness_ms: Option<(f64, f64)>,
    lag_bytes: Option<u64>,
}

/// Tells when a group's read models were last known to be current, at the moment that it is asked. `None` if that does not go on.
pub type Look = Arc<dyn Fn(&str) -> Option<Instant> + Send + Sync>;

#[derive(Default)]
struct State {
    instance: Instance,
    /// What is looked at, while there is something.
    look: Option<Look>,
    since: Option<SystemTime>,
    note: Option<String>,
    groups: BTreeMap<String, Group>,
    slot: Option<Slot>,
    /// Whether the stream stands aside, because the source would wait for it as a synchronous standby.
    aside: bool,
    retained: VecDeque<(f64, Option<i64>)>,
    plans: BTreeMap<String, Value>,
}

/// Shared by whoever sees something and whoever shows it.
#[derive(Default)]
pub struct Observed(Mutex<State>);

impl Observed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This instance is in another state, for this reason.
    pub fn becomes(&self, instance: Instance, note: Option<String>) {
        let mut state = self.state();
        if state.instance != instance || state.since.is_none() {
            state.since = Some(SystemTime::now());
        }
        state.instance = instance;
        state.note = note;
        if instance == Instance::Standby {
            // What another instance does is not ours to tell.
            state.groups.clear();
            state.look = None;
            state.slot = None;
        }
    }

    /// The plans in force, by projection.
    pub fn planned(&self, plans: BTreeMap<String, Value>) {
        self.state().plans = plans;
    }

    /// The groups that there are; others are forgotten.
    pub fn groups_are(&self, names: &[String]) {
        self.state().groups.retain(|name, _| names.contains(name));
    }

    /// Whom to ask when groups were current.
    pub fn follow(&self, look: Look) {
        self.state().look = Some(look);
    }

    /// Asks, so that whoever shows it shows what is true now and not what was true when it was last told.
    fn refresh(&self) {
        let (look, names) = {
            let state = self.state();
            (state.look.clone(), state.groups.keys().cloned().collect::<Vec<_>>())
        };
        let Some(look) = look else { return };
        // Without the lock: whoever is asked has locks of its own.
        let seen: Vec<_> = names.into_iter().filter_map(|name| Some((look(&name)?, name))).collect();
        let mut state = self.state();
        for (as_of, name) in seen {
            if let Some(group) = state.groups.get_mut(&name) {
                group.as_of = Some(as_of);
            }
        }
    }

    /// Where a group is.
    pub fn group(&self, name: &str, as_of: Option<Instant>, lag_bytes: Option<u64>, dirty_keys: usize) {
        let mut state = self.state();
        let group = state.groups.entry(name.to_owned()).or_default();
        group.as_of = as_of.or(group.as_of);
        group.lag_bytes = lag_bytes;
        group.dirty_keys = dirty_keys;
    }

    /// How long transactions took from commit to visible, in seconds.
    pub fn freshness(&self, group: &str, seconds: &[f64]) {
        let mut state = self.state();
        let group = state.groups.entry(group.to_owned()).or_default();
        let room = FRESHNESS_MAX.saturating_sub(group.fresh.len());
        group.fresh.extend(seconds.iter().take(room));
    }

    /// The slot, or that there is none.
    pub fn slot(&self, slot: Option<Slot>) {
        self.state().slot = slot;
    }

    /// Whether the stream stands aside; see [`lockstep_capture::Capture::stands_aside`].
    pub fn stands_aside(&self, aside: bool) {
        self.state().aside = aside;
    }

    /// A projection's plan as `lockstep plan` prints it.
    pub fn plan(&self, name: &str) -> Option<Value> {
        self.state().plans.get(name).cloned()
    }

    /// Lets the staleness grow also while nothing else is told, and keeps the history. Never returns.
    pub async fn run(&self) {
        for tick in 1_u32.. {
            self.tick(tick.is_multiple_of(STEP));
            tokio::time::sleep(TICK).await;
        }
    }

    fn tick(&self, point_too: bool) {
        self.refresh();
        let mut state = self.state();
        let at = seconds_since_epoch(SystemTime::now());
        for (name, group) in &mut state.groups {
            let staleness_seconds = group.as_of.map(|as_of| as_of.elapsed().as_secs_f64());
            if let Some(seconds) = staleness_seconds {
                metrics::gauge!("lockstep_staleness_seconds", "group" => name.clone()).set(seconds);
            }
            if point_too {
                let freshness_ms = percentiles(&mut group.fresh);
                group.shown = freshness_ms.or(group.shown);
                push(&mut group.points, Point { at, staleness_seconds, freshness_ms, lag_bytes: group.lag_bytes });
            }
        }
        if point_too {
            let retained = state.slot.as_ref().map(|slot| slot.retained_bytes);
            push(&mut state.retained, (at, retained));
        }
    }

    /// The instance, as the page shows it.
    pub fn instance(&self) -> Value {
        let state = self.state();
        let since = state.since.and_then(|since| jiff::Timestamp::try_from(since).ok()).map(|since| since.to_string());
        let aside = state.aside.then_some(ASIDE);
        json!({ "state": state.instance.name(), "since": since, "note": state.note.as_deref().or(aside) })
    }

    /// The slot, as the page shows it.
    pub fn slot_value(&self) -> Value {
        json!(self.state().slot)
    }

    /// What is known of a group beyond what the target records; `None` if it is not maintained here.
    pub fn group_value(&self, name: &str) -> Option<Value> {
        self.refresh();
        let state = self.state();
        let group = state.groups.get(name)?;
        Some(json!({
            "staleness_seconds": group.as_of.map(|as_of| as_of.elapsed().as_secs_f64()),
            "freshness_p50_ms": group.shown.map(|(median, _)| median),
            "freshness_p99_ms": group.shown.map(|(_, high)| high),
            "lag_bytes": group.lag_bytes,
            "dirty_keys": group.dirty_keys,
        }))
    }

    /// The last hour, as the page shows it.
    pub fn history(&self) -> Value {
        let state = self.state();
        let series = |group: &Group| {
            let of = |value: &dyn Fn(&Point) -> Value| group.points.iter().map(value).collect::<Vec<_>>();
            json!({
                "t": of(&|point| json!(point.at)),
                "staleness_seconds": of(&|point| json!(point.staleness_seconds)),
                "freshness_p50_ms": of(&|point| json!(point.freshness_ms.map(|(median, _)| median))),
                "freshness_p99_ms": of(&|point| json!(point.freshness_ms.map(|(_, high)| high))),
                "lag_bytes": of(&|point| json!(point.lag_bytes)),
            })
        };
        let groups: serde_json::Map<String, Value> =
            state.groups.iter().map(|(name, group)| (name.clone(), series(group))).collect();
        let (t, retained): (Vec<f64>, Vec<Option<i64>>) = state.retained.iter().copied().unzip();
        json!({
            "step_seconds": STEP,
            "now": seconds_since_epoch(SystemTime::now()),
            "groups": groups,
            "slot": { "t": t, "retained_bytes": retained },
        })
    }
}

fn push<T>(points: &mut VecDeque<T>, point: T) {
    if points.len() == POINTS_MAX {
        points.pop_front();
    }
    points.push_back(point);
}

fn seconds_since_epoch(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Median and 99th percentile in milliseconds; empties what it is given.
fn percentiles(seconds: &mut Vec<f64>) -> Option<(f64, f64)> {
    let mut values = std::mem::take(seconds);
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).map(|value| value * 1000.0)
    };
    Some((at(50)?, at(99)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_is_that_of_the_moment_at_which_it_is_asked_for() {
        let observed = Observed::default();
        let now = Instant::now();
        let long_ago = now.checked_sub(Duration::from_mins(15)).unwrap_or(now);
        for name in ["goes on", "set aside"] {
            observed.group(name, Some(long_ago), None, 0);
        }
        observed.follow(Arc::new(|name| (name == "goes on").then(Instant::now)));
        let staleness = |name| observed.group_value(name).unwrap_or_default()["staleness_seconds"].as_f64().unwrap_or(-1.0);
        assert!((0.0..1.0).contains(&staleness("goes on")), "{}", staleness("goes on"));
        assert!(staleness("set aside") >= 900.0, "{}", staleness("set aside"));
    }

    #[test]
    fn staleness_grows_when_nobody_tells_anything_and_the_history_ends_after_an_hour() {
        let observed = Observed::default();
        observed.group("g", Instant::now().checked_sub(Duration::from_secs(7)), Some(5), 0);
        observed.group("g", None, Some(5), 0);
        observed.freshness("g", &[0.001, 0.002, 0.1]);
        for _ in 0..POINTS_MAX + 5 {
            observed.tick(true);
        }
        let value = observed.group_value("g").unwrap_or_default();
        assert!(value["staleness_seconds"].as_f64().is_some_and(|seconds| seconds >= 7.0), "{value}");
        assert_eq!((value["freshness_p50_ms"].as_f64(), value["freshness_p99_ms"].as_f64()), (Some(2.0), Some(100.0)));
        assert_eq!(observed.history()["groups"]["g"]["t"].as_array().map(Vec::len), Some(POINTS_MAX));
        observed.becomes(Instance::Standby, None);
        assert_eq!(observed.group_value("g"), None);
    }
}
