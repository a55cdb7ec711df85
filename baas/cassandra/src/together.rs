//! What many ask for at the same moment, in one request: while one of a group is on its way, those that come wait for
//! the next, which carries them all. Who is alone waits for nobody.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use faas_store::StoreError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::session::PAUSE_MAX;

/// Items of one request at most.
const TOGETHER_MAX: usize = 128;
/// What is told to those whose request was cut off with its runtime.
const CUT_OFF: StoreError = StoreError::Unavailable { after: PAUSE_MAX };

/// Items on their way, and those that wait, by group.
#[derive(Debug)]
pub(crate) struct Together<G, T> {
    /// A group that is there has a request on its way.
    groups: Mutex<HashMap<G, Vec<Waiting<T>>>>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    by: Instant,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl<G, T> Default for Together<G, T> {
    fn default() -> Self {
        Self { groups: Mutex::default() }
    }
}

impl<G: Clone + Eq + Hash + Send + 'static, T: Send + 'static> Together<G, T> {
    /// Has `request` send an item, perhaps with others of its group. Each request is told the latest time of its items.
    ///
    /// # Errors
    /// What the request failed with; `Deadline` when it did not end in time.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the item on its way.
    pub(crate) async fn send<R>(
        self: &Arc<Self>,
        group: G,
        item: T,
        by: Instant,
        request: impl Fn(Vec<T>, Instant) -> R + Send + 'static,
    ) -> Result<(), StoreError>
    where
        R: Future<Output = Result<(), StoreError>> + Send,
    {
        let (done, told) = oneshot::channel();
        let first = {
            let mut groups = self.lock();
            let first = !groups.contains_key(&group);
            groups.entry(group.clone()).or_default().push(Waiting { item, by, done });
            first
        };
        if first {
            let mut turn = Turn { of: self.clone(), group, over: false };
            tokio::spawn(async move {
                while let Some((items, by, done)) = turn.next() {
                    let outcome = request(items, by).await;
                    for done in done {
                        // Who has left does not mind.
                        done.send(outcome.clone()).ok();
                    }
                }
            });
        }
        match timeout_at(by, told).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CUT_OFF),
            Err(_) => Err(StoreError::Deadline),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<G, Vec<Waiting<T>>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that sends for a group. However it ends, the group is free again.
struct Turn<G: Clone + Eq + Hash + Send + 'static, T: Send + 'static> {
    of: Arc<Together<G, T>>,
    group: G,
    over: bool,
}

type Load<T> = (Vec<T>, Instant, Vec<oneshot::Sender<Result<(), StoreError>>>);

impl<G: Clone + Eq + Hash + Send + 'static, T: Send + 'static> Turn<G, T> {
    /// Takes what waits; `None` ends the turn.
    fn next(&mut self) -> Option<Load<T>> {
        let mut groups = self.of.lock();
        let waiting = groups.get_mut(&self.group)?;
        let Some(by) = waiting.iter().take(TOGETHER_MAX).map(|one| one.by).max() else {
            groups.remove(&self.group);
            self.over = true;
            return None;
        };
        let taken = waiting.drain(..waiting.len().min(TOGETHER_MAX));
        let (items, done) = taken.map(|one| (one.item, one.done)).unzip();
        Some((items, by, done))
    }
}

impl<G: Clone + Eq + Hash + Send + 'static, T: Send + 'static> Drop for Turn<G, T> {
    fn drop(&mut self) {
        if !self.over {
            self.of.lock().remove(&self.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    type Sent = Arc<Mutex<Vec<Vec<u32>>>>;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `n` in its group; a request takes 10 ms.
    async fn send(all: &Arc<Together<u32, u32>>, sent: &Sent, group: u32, n: u32) -> Result<(), StoreError> {
        let sent = sent.clone();
        let request = move |items: Vec<u32>, _| {
            let (sent, full) = (sent.clone(), items.contains(&99));
            sent.lock().unwrap().push(items);
            async move {
                tokio::time::sleep(10 * MS).await;
                if full { Err(StoreError::Full) } else { Ok(()) }
            }
        };
        all.send(group, n, Instant::now() + 1_000 * MS, request).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_alone_and_those_that_come_meanwhile_go_together() {
        let (all, sent) = (Arc::new(Together::default()), Sent::default());
        let begun = Instant::now();
        let told = join_all((0..5).map(|n| send(&all, &sent, 7, n))).await;
        assert!(told.iter().all(Result::is_ok));
        // The task of the first one runs once all have come.
        assert_eq!(*sent.lock().unwrap(), [vec![0, 1, 2, 3, 4]]);
        let (one, others) = tokio::join!(send(&all, &sent, 7, 10), async {
            tokio::time::sleep(MS).await;
            join_all((11..14).map(|n| send(&all, &sent, 7, n))).await
        });
        assert!(one.is_ok() && others.iter().all(Result::is_ok));
        assert_eq!(sent.lock().unwrap()[1..], [vec![10], vec![11, 12, 13]]);
        assert_eq!(begun.elapsed(), 30 * MS, "a round each");
        assert!(all.lock().is_empty(), "nothing is kept of a group that rests");
    }

    #[tokio::test(start_paused = true)]
    async fn groups_do_not_wait_for_each_other_and_a_request_has_its_bound() {
        let (all, sent) = (Arc::new(Together::default()), Sent::default());
        let begun = Instant::now();
        join_all((0..4).map(|n| send(&all, &sent, n, n))).await;
        assert_eq!((sent.lock().unwrap().len(), begun.elapsed()), (4, 10 * MS));
        sent.lock().unwrap().clear();
        let many = u32::try_from(TOGETHER_MAX).unwrap() + 1;
        join_all((100..100 + many).map(|n| send(&all, &sent, 0, n))).await;
        let sizes: Vec<_> = sent.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [TOGETHER_MAX, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_a_request_are_told_how_it_failed_and_the_next_is_not_touched() {
        let (all, sent) = (Arc::new(Together::default()), Sent::default());
        let told = join_all([1, 99, 2].map(|n| send(&all, &sent, 0, n))).await;
        assert_eq!(told, [Err(StoreError::Full), Err(StoreError::Full), Err(StoreError::Full)]);
        assert_eq!(send(&all, &sent, 0, 3).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_and_who_leaves_takes_nothing_away() {
        let (all, sent): (Arc<Together<u32, u32>>, _) = (Arc::new(Together::default()), Sent::default());
        let never = |_, _| std::future::pending();
        let late = all.send(0, 1, Instant::now() + 20 * MS, never).await;
        assert_eq!(late, Err(StoreError::Deadline));
        let left = tokio::time::timeout(MS, send(&all, &sent, 1, 5)).await;
        assert!(left.is_err());
        assert_eq!(send(&all, &sent, 1, 6).await, Ok(()));
        assert_eq!(*sent.lock().unwrap(), [vec![5], vec![6]]);
    }

    #[tokio::test]
    async fn a_request_that_panics_frees_its_group() {
        let (all, sent): (Arc<Together<u32, u32>>, _) = (Arc::new(Together::default()), Sent::default());
        let breaks = |_, _| async { panic!("as the test says") };
        assert_eq!(all.send(0, 1, Instant::now() + 1_000 * MS, breaks).await, Err(CUT_OFF));
        assert_eq!(send(&all, &sent, 0, 2).await, Ok(()));
    }
}
