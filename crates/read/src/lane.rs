//! Equal requests that come at the same time are answered together.
//!
//! A request never joins one that is already being answered, whose snapshot may be older than the request: it joins the next one, which
//! begins when that has ended. So an answer is as fresh as if its request had been alone, and whatever many clients ask for at the same
//! time is computed one time after the other, not all at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

type Flight<T> = Shared<BoxFuture<'static, T>>;

struct Lane<T: Clone> {
    /// Held by the one that is being answered.
    gate: tokio::sync::Mutex<()>,
    /// The next one, which others may still join.
    next: Mutex<Option<Flight<T>>>,
}

/// A lane and how many wait in it.
type Used<T> = (Arc<Lane<T>>, usize);

/// A lane for each kind of request that somebody waits for.
pub(crate) struct Lanes<K: Eq + Hash, T: Clone>(Mutex<HashMap<K, Used<T>>>);

impl<K: Eq + Hash, T: Clone> Default for Lanes<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Somebody who waits. When the last one goes, answered or not, the lane goes too, and with it what was never begun.
struct Waiting<'a, K: Eq + Hash, T: Clone> {
    lanes: &'a Lanes<K, T>,
    key: K,
    lane: Arc<Lane<T>>,
}

impl<K: Eq + Hash, T: Clone> Drop for Waiting<'_, K, T> {
    fn drop(&mut self) {
        let mut lanes = locked(&self.lanes.0);
        let Some((_, waiting)) = lanes.get_mut(&self.key) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            lanes.remove(&self.key);
            // It may hold the lane that holds it. Dropped when the lock is not held any more: it may hold anything.
            let never_begun = locked(&self.lane.next).take();
            drop(lanes);
            drop(never_begun);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone, T: Clone + Send + Sync + 'static> Lanes<K, T> {
    fn enter(&self, key: K) -> Waiting<'_, K, T> {
        let mut lanes = locked(&self.0);
        let (lane, waiting) = lanes
            .entry(key.clone())
            .or_insert_with(|| (Arc::new(Lane { gate: tokio::sync::Mutex::default(), next: Mutex::default() }), 0));
        *waiting += 1;
        Waiting { lanes: self, key, lane: lane.clone() }
    }

    /// The answer that `answer` gives, or somebody else's to the same question that has not been begun yet.
    pub(crate) async fn join<F>(&self, key: K, answer: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let waiting = self.enter(key);
        let flight = locked(&waiting.lane.next)
            .get_or_insert_with(|| {
                let (lane, answering) = (waiting.lane.clone(), answer());
                let flight = async move {
                    let _turn = lane.gate.lock().await;
                    // From here on it is too late to join.
                    drop(locked(&lane.next).take());
                    answering.await
                };
                flight.boxed().shared()
            })
            .clone();
        flight.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_request_joins_the_next_one_never_the_one_that_runs() {
        let lanes: Arc<Lanes<&str, u32>> = Arc::default();
        let begun = Arc::new(AtomicU32::new(0));
        let (release, gate) = tokio::sync::watch::channel(false);
        let ask = |key: &'static str| {
            let (lanes, begun, mut gate) = (lanes.clone(), begun.clone(), gate.clone());
            tokio::spawn(async move {
                lanes
                    .join(key, || async move {
                        let number = begun.fetch_add(1, Ordering::SeqCst);
                        gate.wait_for(|open| *open).await.map_or(u32::MAX, |_| number)
                    })
                    .await
            })
        };
        let first = ask("a");
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..10).map(|_| ask("a")).collect();
        let elsewhere = ask("b");
        while begun.load(Ordering::SeqCst) == 1 {
            tokio::task::yield_now().await;
        }
        release.send_replace(true);
        assert_eq!((first.await.ok(), elsewhere.await.ok()), (Some(0), Some(1)));
        for other in others {
            assert_eq!(other.await.ok(), Some(2), "one answer for all that waited");
        }
        assert!(locked(&lanes.0).is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_does_not_keep_the_others_waiting() {
        let lanes: Arc<Lanes<&str, u32>> = Arc::default();
        let never = tokio::spawn({
            let lanes = lanes.clone();
            async move { lanes.join("a", std::future::pending::<u32>).await }
        });
        tokio::task::yield_now().await;
        never.abort();
        drop(never.await);
        assert!(locked(&lanes.0).is_empty());
        let answered = tokio::time::timeout(std::time::Duration::from_secs(5), lanes.join("a", || async { 7 })).await;
        assert_eq!(answered, Ok(7));
        // Nor do those leave anything behind who waited behind another one.
        let held = Arc::new(());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (lanes, held) = (lanes.clone(), held.clone());
                tokio::spawn(async move {
                    lanes
                        .join("a", || async move {
                            std::future::pending::<()>().await;
                            drop(held);
                            0
                        })
                        .await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for waiting in waiting {
            waiting.abort();
            drop(waiting.await);
        }
        assert!(locked(&lanes.0).is_empty());
        assert_eq!(Arc::strong_count(&held), 1, "nothing is kept");
    }
}
