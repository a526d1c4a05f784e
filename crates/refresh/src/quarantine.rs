//! Keys whose rows cannot be computed or written: a cast that fails, a division by zero, a scalar subquery with two rows, a value
//! that a unique index refuses. They are set aside one by one, and tried again when their row changes, and after a while.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use lockstep_connect::{Repertoire, Text};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// First and longest pause before a key is tried again although its row has not changed.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_mins(10);

/// What becomes of the row of a key that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The last good row stays.
    #[default]
    Keep,
    /// The row goes.
    Remove,
    /// The whole projection is set aside.
    Halt,
}

/// What a key is the key of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// A root row of this branch.
    Branch(usize),
    /// A group.
    Groups,
}

impl Part {
    /// The number that is recorded.
    fn number(self) -> i32 {
        match self {
            Self::Branch(branch) => i32::try_from(branch).unwrap_or(i32::MAX),
            Self::Groups => -1,
        }
    }

    fn from_number(number: i32) -> Self {
        usize::try_from(number).map_or(Self::Groups, Self::Branch)
    }
}

/// A key, as the texts of its columns: bytes, which its database need not promise to be UTF-8.
pub type Key = Vec<Option<Text>>;

/// Why a key failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) sqlstate: Option<String>,
    /// PostgreSQL's own message. It may quote the row's value: it is kept beside the data and never logged.
    pub(crate) message: String,
    /// The key that an index refuses it for, if that is known.
    pub(crate) blocker: Option<Key>,
}

impl Failure {
    fn is_clash(&self) -> bool {
        self.sqlstate.as_deref().is_some_and(is_clash_state)
    }
}

#[derive(Debug, Clone)]
struct Entry {
    attempts: i32,
    retry_at: Instant,
    /// An index refused it: another row may make room.
    clash: bool,
    /// The one that has to.
    blocker: Option<Key>,
}

/// Keys of a part that are tried again in one batch although nothing has happened to them, at first: each that fails still costs two attempts,
/// and all other keys wait for them. While all that are tried are good again, the number doubles.
const RETRIED: std::ops::RangeInclusive<usize> = 4..=1024;

/// The keys of one projection that are set aside.
#[derive(Debug)]
pub(crate) struct Quarantine {
    known: HashMap<(Part, Key), Entry>,
    /// How many are tried again in the next batch.
    retried: usize,
    /// What the batch in work found: keys that failed, and keys that are good again.
    found: HashMap<(Part, Key), Option<Failure>>,
}

fn read(recorded: Vec<Option<String>>) -> Key {
    recorded.into_iter().map(|column| column.map(|text| Text::from_recorded(&text))).collect()
}

/// Whether an error is about the data of some row, so that other rows can do without it.
pub(crate) fn is_about_data(error: &tokio_postgres::Error) -> bool {
    // Appendix A of PostgreSQL's documentation: 21 cardinality (a scalar subquery with two rows), 22 data, 23 constraints,
    // 38 and 39 external routines, 54 limits (a value too long for an index), P0 raised by a function.
    let class = error.code().map_or("", |state| state.code().get(..2).unwrap_or_default());
    matches!(class, "21" | "22" | "23" | "38" | "39" | "54" | "P0")
}

/// Whether a unique index or an exclusion constraint refused a row.
pub(crate) fn is_clash(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| is_clash_state(state.code()))
}

fn is_clash_state(sqlstate: &str) -> bool {
    [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION].iter().any(|state| state.code() == sqlstate)
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { known: HashMap::new(), retried: *RETRIED.start(), found: HashMap::new() }
    }
}

impl Quarantine {
    /// What the target has recorded about a projection.
    pub(crate) async fn load(target: &Client, projection: &str) -> Result<Self, tokio_postgres::Error> {
        let rows = target
            .query(
                "SELECT part, key, attempts, greatest(extract(epoch FROM retry_at - clock_timestamp()), 0)::double precision,
                        coalesce(sqlstate, '')
                 FROM lockstep.quarantine WHERE projection = $1",
                &[&projection],
            )
            .await?;
        let now = Instant::now();
        let entry = |row: &tokio_postgres::Row| {
            let pause = Duration::try_from_secs_f64(row.get(3)).unwrap_or_default().min(*RETRY.end());
            let clash = is_clash_state(row.get(4));
            // What it clashes with is not recorded: it is found by trying.
            let retry_at = if clash { now } else { now + pause };
            ((Part::from_number(row.get(0)), read(row.get(1))), Entry { attempts: row.get(2), retry_at, clash, blocker: None })
        };
        Ok(Self { known: rows.iter().map(entry).collect(), ..Self::default() })
    }

    /// How many keys are set aside when the batch in work commits.
    pub(crate) fn len(&self) -> usize {
        let released = self.found.iter().filter(|(key, failure)| failure.is_none() && self.known.contains_key(*key)).count();
        let added = self.found.iter().filter(|(key, failure)| failure.is_some() && !self.known.contains_key(*key)).count();
        self.known.len() + added - released
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.found.is_empty()
    }

    /// Whether keys fail for another reason than that they clash.
    pub(crate) fn has_failures(&self) -> bool {
        self.known.values().any(|entry| !entry.clash) || self.found.values().flatten().any(|failure| !failure.is_clash())
    }

    /// Whether keys clash.
    pub(crate) fn has_clashes(&self) -> bool {
        self.known.values().any(|entry| entry.clash)
    }

    /// The keys of a part that clash with what is refreshed, and may not when that is done; those that clash with them, and so on.
    pub(crate) fn freed_by(&self, part: Part, refreshed: &HashSet<Key>) -> Vec<Key> {
        let mut freed: HashSet<&Key> = HashSet::new();
        loop {
            let before = freed.len();
            for ((of, key), entry) in &self.known {
                if *of == part
                    && entry.blocker.as_ref().is_some_and(|blocker| refreshed.contains(blocker) || freed.contains(blocker))
                {
                    freed.insert(key);
                }
            }
            if freed.len() == before {
                return freed.into_iter().filter(|key| !refreshed.contains(*key)).cloned().collect();
            }
        }
    }

    pub(crate) fn contains(&self, part: Part, key: &Key) -> bool {
        self.known.contains_key(&(part, key.clone()))
    }

    /// The keys of a part.
    pub(crate) fn keys(&self, part: Part) -> Vec<Key> {
        self.known.keys().filter(|(of, _)| *of == part).map(|(_, key)| key.clone()).collect()
    }

    /// Whether keys of another part are in it.
    pub(crate) fn has_other_than(&self, part: Part) -> bool {
        self.known.keys().any(|(of, _)| *of != part)
    }

    /// The keys of a part that are due to be tried again.
    pub(crate) fn due(&self, part: Part) -> Vec<Key> {
        let now = Instant::now();
        let due = |((of, _), entry): &(&(Part, Key), &Entry)| *of == part && entry.retry_at <= now;
        let (clashing, mut failing): (Vec<_>, Vec<_>) = self.known.iter().filter(due).partition(|(_, entry)| entry.clash);
        failing.sort_by_key(|(_, entry)| entry.retry_at);
        // Those that clash are told apart without being tried.
        let due = clashing.into_iter().chain(failing.into_iter().take(self.retried));
        due.map(|((_, key), _)| key.clone()).collect()
    }

    /// When the next key is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.known.values().map(|entry| entry.retry_at).min()
    }

    /// Makes all keys due, for the next batch.
    pub(crate) fn retry_now(&mut self) {
        let now = Instant::now();
        self.known.values_mut().for_each(|entry| entry.retry_at = now);
        self.retried = usize::MAX;
    }

    /// The batch in work could not refresh a key.
    pub(crate) fn failed(&mut self, part: Part, key: Key, failure: Failure) {
        self.found.insert((part, key), Some(failure));
    }

    /// The batch in work has refreshed a key.
    pub(crate) fn refreshed(&mut self, part: Part, key: Key) {
        let key = (part, key);
        if self.known.contains_key(&key) {
            self.found.insert(key, None);
        } else {
            self.found.remove(&key);
        }
    }

    /// The batch in work has refreshed every key of a part.
    pub(crate) fn all_refreshed(&mut self, part: Part) {
        self.found.retain(|(of, _), _| *of != part);
        let keys: Vec<(Part, Key)> = self.known.keys().filter(|(of, _)| *of == part).cloned().collect();
        self.found.extend(keys.into_iter().map(|key| (key, None)));
    }

    /// Records what the batch in work found. `relation` names the table of a branch's root keys.
    pub(crate) async fn write(
        &self,
        target: &Client,
        projection: &str,
        relation: impl Fn(usize) -> Option<String>,
    ) -> Result<(), tokio_postgres::Error> {
        if self.found.is_empty() {
            return Ok(());
        }
        let repertoire = Repertoire::of_session(target).await?;
        for ((part, key), failure) in &self.found {
            let recorded: Vec<Option<Cow<'_, str>>> =
                key.iter().map(|column| column.as_ref().map(|text| text.recorded(repertoire))).collect();
            let Some(failure) = failure else {
                target
                    .execute(
                        "DELETE FROM lockstep.quarantine WHERE projection = $1 AND part = $2 AND key = $3",
                        &[&projection, &part.number(), &recorded],
                    )
                    .await?;
                continue;
            };
            let relation = match part {
                Part::Branch(branch) => relation(*branch),
                Part::Groups => None,
            };
            let pause = self.pause(*part, key).as_secs_f64();
            target
                .execute(
                    "INSERT INTO lockstep.quarantine AS q (projection, part, relation, key, sqlstate, message, retry_at)
                     VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::double precision * interval '1 second')
                     ON CONFLICT (projection, part, key) DO UPDATE
                     SET sqlstate = excluded.sqlstate, message = excluded.message, last_at = clock_timestamp(),
                         attempts = q.attempts + 1, retry_at = excluded.retry_at",
                    &[
                        &projection,
                        &part.number(),
                        &relation,
                        &recorded,
                        &failure.sqlstate,
                        &repertoire.message(&failure.message),
                        &pause,
                    ],
                )
                .await?;
        }
        Ok(())
    }

    fn pause(&self, part: Part, key: &Key) -> Duration {
        let attempts = self.known.get(&(part, key.clone())).map_or(0, |entry| entry.attempts);
        (*RETRY.start() * 2_u32.saturating_pow(u32::try_from(attempts).unwrap_or(0).min(10))).min(*RETRY.end())
    }

    /// The batch has committed. Returns how many keys are newly set aside and how many are good again. Rows that were written may have
    /// made room for what a unique index refused; and what made one key fail may have made others fail.
    pub(crate) fn commit(&mut self, wrote: bool) -> (usize, usize) {
        let (mut added, mut released, mut failed_again) = (0, 0, false);
        for ((part, key), failure) in std::mem::take(&mut self.found) {
            let pause = self.pause(part, &key);
            match (failure, self.known.remove(&(part, key.clone()))) {
                (None, Some(_)) => released += 1,
                (None, None) => {}
                (Some(failure), earlier) => {
                    added += usize::from(earlier.is_none());
                    failed_again |= earlier.is_some() && !failure.is_clash();
                    let attempts = earlier.map_or(1, |entry| entry.attempts.saturating_add(1));
                    let entry =
                        Entry { attempts, retry_at: Instant::now() + pause, clash: failure.is_clash(), blocker: failure.blocker };
                    self.known.insert((part, key), entry);
                }
            }
        }
        let now = Instant::now();
        // Where it is known what a key clashes with, that decides when it is tried again.
        let freed = |entry: &Entry| if entry.clash { entry.blocker.is_none() && wrote && added == 0 } else { released > 0 };
        for entry in self.known.values_mut().filter(|entry| freed(entry)) {
            entry.retry_at = entry.retry_at.min(now);
        }
        let doubled = if failed_again || released == 0 { 0 } else { self.retried.saturating_mul(2) };
        self.retried = doubled.clamp(*RETRIED.start(), *RETRIED.end());
        (added, released)
    }

    /// The batch has not committed.
    pub(crate) fn roll_back(&mut self) {
        self.found.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Key, Part, Quarantine};

    fn failure() -> Failure {
        Failure { sqlstate: Some("22P02".to_owned()), message: "no".to_owned(), blocker: None }
    }

    fn key(n: i32) -> Key {
        vec![Some(n.to_string().into())]
    }

    #[test]
    fn what_clashes_is_tried_when_its_blocker_is_refreshed() {
        let mut quarantine = Quarantine::default();
        for (n, blocker) in [(1, 10), (2, 1), (3, 2), (4, 11)] {
            let clash = Failure { sqlstate: Some("23P01".to_owned()), message: String::new(), blocker: Some(key(blocker)) };
            quarantine.failed(Part::Groups, key(n), clash);
        }
        quarantine.commit(true);
        assert!(quarantine.has_clashes() && !quarantine.has_failures());
        assert!(quarantine.due(Part::Groups).is_empty(), "writing anything else does not free them");
        let freed = |keys: &[i32]| {
            let mut freed = quarantine.freed_by(Part::Groups, &keys.iter().copied().map(key).collect());
            freed.sort();
            freed
        };
        assert_eq!(freed(&[10]), [key(1), key(2), key(3)]);
        assert_eq!(freed(&[11, 4]), Vec::<Key>::new());
        assert!(quarantine.freed_by(Part::Branch(0), &[key(10)].into()).is_empty());
    }

    #[test]
    fn few_are_tried_again_at_once_unless_they_are_good() {
        let mut quarantine = Quarantine::default();
        for n in 0..100 {
            quarantine.failed(Part::Groups, key(n), failure());
        }
        quarantine.commit(false);
        let due = |quarantine: &mut Quarantine| {
            quarantine.known.values_mut().for_each(|entry| entry.retry_at = std::time::Instant::now());
            quarantine.due(Part::Groups)
        };
        let mut tried = Vec::new();
        for good in [true, true, false] {
            let keys = due(&mut quarantine);
            tried.push(keys.len());
            for key in keys {
                if good {
                    quarantine.refreshed(Part::Groups, key);
                } else {
                    quarantine.failed(Part::Groups, key, failure());
                }
            }
            quarantine.commit(true);
        }
        assert_eq!((tried, due(&mut quarantine).len()), (vec![4, 8, 16], 4));
        quarantine.retry_now();
        assert_eq!(quarantine.due(Part::Groups).len(), 88, "somebody asked for it");
    }

    #[test]
    fn a_key_counts_from_its_batch_on_until_it_is_good() {
        let mut quarantine = Quarantine::default();
        let key = key(1);
        quarantine.failed(Part::Branch(0), key.clone(), failure());
        assert_eq!(quarantine.len(), 1);
        quarantine.roll_back();
        assert!(quarantine.is_empty());
        quarantine.failed(Part::Branch(0), key.clone(), failure());
        assert_eq!(quarantine.commit(false), (1, 0));
        assert!(quarantine.contains(Part::Branch(0), &key) && !quarantine.contains(Part::Groups, &key));
        quarantine.failed(Part::Branch(0), key.clone(), failure());
        assert_eq!(quarantine.commit(false), (0, 0));
        quarantine.refreshed(Part::Branch(0), key);
        assert_eq!(quarantine.len(), 0);
        assert_eq!(quarantine.commit(false), (0, 1));
        assert!(quarantine.is_empty());
    }

    #[test]
    fn what_refreshes_all_of_a_part_leaves_the_others() {
        let mut quarantine = Quarantine::default();
        for part in [Part::Branch(0), Part::Branch(1), Part::Groups] {
            quarantine.failed(part, vec![None], failure());
        }
        quarantine.commit(false);
        quarantine.all_refreshed(Part::Branch(1));
        assert_eq!(quarantine.commit(false), (0, 1));
        assert!(quarantine.contains(Part::Groups, &vec![None]) && !quarantine.contains(Part::Branch(1), &vec![None]));
        // What made one key fail may have made the other.
        assert_eq!(quarantine.due(Part::Groups).len(), 1);
        quarantine.failed(Part::Groups, vec![None], failure());
        quarantine.commit(true);
        assert!(quarantine.due(Part::Groups).is_empty());
        quarantine.retry_now();
        assert_eq!(quarantine.due(Part::Groups).len(), 1);
    }
}
