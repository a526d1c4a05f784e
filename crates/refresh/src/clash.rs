//! Which of the rows that clash on a unique index or an exclusion constraint are set aside.
//!
//! A key that is set aside keeps its last good row (or loses it), and that row may be in another's way. So the question is one about the
//! whole: the keys that are written clash with nothing that stands when they are, and each that is set aside clashes with something that
//! does.

use std::collections::{BTreeMap, HashMap, HashSet};

use lockstep_connect::Text;

use crate::quarantine::Key;

/// Two rows that cannot both be in the table.
#[derive(Debug, Clone)]
pub(crate) enum Clash {
    /// A fresh row and one that the table holds.
    WithHeld {
        fresh: Key,
        held: Key,
        /// Whether what the table holds is refreshed as well, so that it may go.
        refreshed: bool,
        /// The number of the index.
        index: usize,
    },
    /// Two fresh rows, of one key or of two, and which of them the table holds with this value already.
    BothFresh { one: Key, other: Key, one_stands: bool, other_stands: bool, index: usize },
}

/// A key that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loser {
    /// What it clashes with; the key itself if its own rows do.
    pub(crate) blocker: Key,
    /// The index that refuses it.
    pub(crate) index: usize,
}

/// What becomes of clashing keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) losers: BTreeMap<Key, Loser>,
    /// Whether some fresh row takes the value of a row that goes or changes: what goes has to go first.
    pub(crate) takes_over: bool,
}

/// Decides. A row that the table holds stays before one that comes; of newcomers the one with the smaller key is kept. `keeps` says that the
/// last good row of a key that is set aside stays.
pub(crate) fn resolve(clashes: &[Clash], keeps: bool) -> Resolution {
    let graph = Graph::of(clashes, keeps);
    // A key that won against another and is then set aside itself must not have cost the other its place: it begins anew without it.
    let mut excluded: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let refused = loop {
        match graph.refuse(&excluded) {
            Ok(refused) => break refused,
            Err((key, why)) => {
                excluded.insert(key, why);
            }
        }
    };
    let losers: BTreeMap<Key, Loser> = graph
        .readmit(refused)
        .into_iter()
        .map(|(key, (blocker, index))| (graph.keys[key].clone(), Loser { blocker: graph.keys[blocker].clone(), index }))
        .collect();
    let takes_over = clashes.iter().any(|clash| match clash {
        Clash::WithHeld { fresh, .. } => !losers.contains_key(fresh),
        Clash::BothFresh { .. } => false,
    });
    Resolution { losers, takes_over }
}

/// Keys set aside, each with what it clashes with and the index.
type Refused = BTreeMap<usize, (usize, usize)>;

/// The clashes with numbers for keys, in the order of the keys.
struct Graph {
    keys: Vec<Key>,
    keeps: bool,
    /// For each key, those whose held rows are in the way of its fresh ones, whether they are refreshed, and the index.
    held: Vec<Vec<(usize, bool, usize)>>,
    /// For each key, those that wait for its held rows to go.
    waiting: Vec<Vec<usize>>,
    /// Loser, winner, index.
    pairs: Vec<(usize, usize, usize)>,
    /// For each key, those whose fresh rows clash with its own.
    fresh: Vec<Vec<(usize, usize)>>,
}

impl Graph {
    fn of(clashes: &[Clash], keeps: bool) -> Self {
        let mut keys: Vec<&Key> = clashes
            .iter()
            .flat_map(|clash| match clash {
                Clash::WithHeld { fresh: one, held: other, .. } | Clash::BothFresh { one, other, .. } => [one, other],
            })
            .collect();
        keys.sort_by(|a, b| in_order(a).cmp(&in_order(b)));
        keys.dedup();
        let number: HashMap<&Key, usize> = keys.iter().enumerate().map(|(number, key)| (*key, number)).collect();
        let mut graph = Self {
            keeps,
            held: vec![Vec::new(); keys.len()],
            waiting: vec![Vec::new(); keys.len()],
            pairs: Vec::new(),
            fresh: vec![Vec::new(); keys.len()],
            keys: Vec::new(),
        };
        for clash in clashes {
            match clash {
                Clash::WithHeld { fresh, held, refreshed, index } => {
                    let (fresh, held) = (number[fresh], number[held]);
                    graph.held[fresh].push((held, *refreshed, *index));
                    graph.waiting[held].push(fresh);
                }
                Clash::BothFresh { one, other, one_stands, other_stands, index } => {
                    let (one, other) = (number[one], number[other]);
                    let other_wins = match (one_stands, other_stands) {
                        (true, false) => false,
                        (false, true) => true,
                        (true, true) | (false, false) => other < one,
                    };
                    let (loser, winner) = if other_wins { (one, other) } else { (other, one) };
                    graph.pairs.push((loser, winner, *index));
                    graph.fresh[one].push((other, *index));
                    graph.fresh[other].push((one, *index));
                }
            }
        }
        graph.pairs.sort_unstable();
        graph.keys = keys.into_iter().cloned().collect();
        graph
    }

    /// What keeps a key's fresh rows out, given those that are refused.
    fn obstacle(&self, key: usize, refused: &Refused) -> Option<(usize, usize)> {
        let stays = |held: usize, refreshed: bool| !refreshed || (self.keeps && refused.contains_key(&held));
        self.held[key].iter().find(|(held, refreshed, _)| stays(*held, *refreshed)).map(|(held, _, index)| (*held, *index))
    }

    /// Refuses key after key until nothing clashes. A key that others were refused for and that cannot stay itself is an error.
    fn refuse(&self, excluded: &Refused) -> Result<Refused, (usize, (usize, usize))> {
        let mut refused = Refused::new();
        let mut winners = HashSet::new();
        let mut work: Vec<(usize, (usize, usize))> = excluded.iter().map(|(key, why)| (*key, *why)).collect();
        work.extend((0..self.keys.len()).filter_map(|key| Some((key, self.obstacle(key, &refused)?))));
        let mut pairs = self.pairs.iter();
        loop {
            while let Some((key, why)) = work.pop() {
                if winners.contains(&key) {
                    return Err((key, why));
                }
                if refused.insert(key, why).is_none() && self.keeps {
                    work.extend(
                        self.waiting[key]
                            .iter()
                            .filter(|waiting| !refused.contains_key(waiting))
                            .filter_map(|waiting| Some((*waiting, self.obstacle(*waiting, &refused)?))),
                    );
                }
            }
            let Some((loser, winner, index)) = pairs.next() else { return Ok(refused) };
            if !refused.contains_key(loser) && (loser == winner || !refused.contains_key(winner)) {
                if loser != winner {
                    winners.insert(*winner);
                }
                work.push((*loser, (*winner, *index)));
            }
        }
    }

    /// Lets those in again that clash with nothing that stands now.
    fn readmit(&self, mut refused: Refused) -> Refused {
        let in_the_way = |key: usize, refused: &Refused| {
            let own = self.fresh[key].iter().find(|(other, _)| *other == key || !refused.contains_key(other));
            self.obstacle(key, refused).or(own.copied())
        };
        loop {
            let free = refused.keys().copied().find(|key| in_the_way(*key, &refused).is_none());
            let Some(free) = free else { break };
            refused.remove(&free);
        }
        let keys: Vec<usize> = refused.keys().copied().collect();
        for key in keys {
            if let Some(obstacle) = in_the_way(key, &refused) {
                refused.insert(key, obstacle);
            }
        }
        refused
    }
}

/// A column of a key, for ordering: a number, then another text; the text as it is decides between `1` and `01`.
type Ordered<'a> = (Option<Result<i128, &'a [u8]>>, Option<&'a [u8]>);

/// Keys in order: numbers by their value, before other texts.
fn in_order(key: &Key) -> Vec<Ordered<'_>> {
    key.iter().map(|value| value.as_ref().map(column_in_order).unzip()).collect()
}

fn column_in_order(text: &Text) -> (Result<i128, &[u8]>, &[u8]) {
    (text.as_utf8().and_then(|text| text.parse().ok()).ok_or(text.as_bytes()), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::{Clash, resolve};
    use crate::quarantine::Key;

    fn key(n: usize) -> Key {
        vec![Some(n.to_string().into())]
    }

    /// What the statement on the server finds: `held` and `fresh` are the values of keys; all fresh keys are refreshed, and `gone` too.
    fn clashes(held: &BTreeMap<usize, u32>, fresh: &BTreeMap<usize, u32>, gone: &HashSet<usize>) -> Vec<Clash> {
        let mut found = Vec::new();
        for (one, value) in fresh {
            for (other, taken) in held.iter().filter(|(other, taken)| *other != one && *taken == value) {
                let refreshed = fresh.contains_key(other) || gone.contains(other);
                found.push(Clash::WithHeld {
                    fresh: key(*one),
                    held: key(*other),
                    refreshed,
                    index: usize::try_from(*taken).unwrap(),
                });
            }
            for (other, _) in fresh.range(one + 1..).filter(|(_, taken)| *taken == value) {
                let stands = |n: &usize| held.get(n) == Some(value);
                found.push(Clash::BothFresh {
                    one: key(*one),
                    other: key(*other),
                    one_stands: stands(one),
                    other_stands: stands(other),
                    index: 0,
                });
            }
        }
        found
    }

    fn losers(held: &[(usize, u32)], fresh: &[(usize, u32)]) -> Vec<String> {
        let map = |pairs: &[(usize, u32)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
        let found = clashes(&map(held), &map(fresh), &HashSet::new());
        resolve(&found, true).losers.keys().map(|key| key[0].as_ref().unwrap().to_string()).collect()
    }

    #[test]
    fn swaps_and_chains_pass() {
        assert!(losers(&[(1, 10), (2, 20)], &[(1, 20), (2, 10)]).is_empty());
        assert!(losers(&[(1, 10), (2, 20), (3, 30)], &[(1, 20), (2, 30), (3, 40)]).is_empty());
    }

    #[test]
    fn who_stands_stays_and_of_newcomers_the_smaller_key() {
        assert_eq!(losers(&[(1, 10), (2, 20)], &[(1, 20)]), ["1"]);
        assert_eq!(losers(&[(1, 10), (2, 20)], &[(1, 20), (2, 20)]), ["1"]);
        assert_eq!(losers(&[], &[(10, 5), (9, 5)]), ["10"], "numbers are compared as such");
        // 3 wants the place of 1, which cannot leave.
        assert_eq!(losers(&[(1, 10), (2, 20), (3, 30)], &[(1, 20), (3, 10)]), ["1", "3"]);
    }

    #[test]
    fn what_is_kept_clashes_with_nothing_and_what_is_not_with_something() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..20_000 {
            let keys = random.random_range(2..9_usize);
            let values = random.random_range(2..10_u32);
            let keeps = random.random_bool(0.5);
            let mut held = BTreeMap::new();
            for n in 0..keys {
                let value = random.random_range(0..values);
                if random.random_bool(0.8) && !held.values().any(|taken| *taken == value) {
                    held.insert(n, value);
                }
            }
            let mut fresh = BTreeMap::new();
            let mut gone = HashSet::new();
            for n in 0..keys {
                if random.random_bool(0.7) {
                    fresh.insert(n, random.random_range(0..values));
                } else if random.random_bool(0.3) {
                    gone.insert(n);
                }
            }
            let resolution = resolve(&clashes(&held, &fresh, &gone), keeps);
            let mut table: HashMap<usize, u32> = HashMap::new();
            for n in 0..keys {
                let lost = resolution.losers.contains_key(&key(n));
                let row = match (fresh.get(&n), held.get(&n)) {
                    (Some(value), _) if !lost => Some(*value),
                    (Some(_), held) => held.copied().filter(|_| keeps),
                    (None, held) => held.copied().filter(|_| !gone.contains(&n)),
                };
                table.extend(row.map(|value| (n, value)));
            }
            let context = format!("round {round}: {held:?} {fresh:?} {gone:?} {keeps}: {resolution:?}, {table:?}");
            let distinct: HashSet<u32> = table.values().copied().collect();
            assert_eq!(distinct.len(), table.len(), "{context}");
            for (loser, why) in &resolution.losers {
                let n: usize = loser[0].as_ref().unwrap().to_string().parse().unwrap();
                let blocker: usize = why.blocker[0].as_ref().unwrap().to_string().parse().unwrap();
                assert_eq!(table.get(&blocker), fresh.get(&n), "{context}");
                assert_ne!(blocker, n, "{context}");
            }
        }
    }
}
