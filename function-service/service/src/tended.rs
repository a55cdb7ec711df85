//! The lanes that have instances, and how those that are idle make room for others.
//!
//! Calls never come here: a lane is entered when its task begins and leaves
//! when it ends. When a start finds no room, the lanes are looked through once
//! and one in 16 of their idle instances stop, those unused longest; so that
//! the look costs little per instance.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use faas_runtime::{RuntimeError, Started};
use futures_util::future::BoxFuture;

use crate::lane::Lane;

/// One in so many idle lanes is evicted at a time.
const SHARE: usize = 16;
/// How often one start makes room before it gives up.
const TRIES_MAX: usize = 32;

/// The lanes with a task.
#[derive(Debug, Default)]
pub(crate) struct Tended {
    /// In the order of entry.
    lanes: Mutex<BTreeMap<u64, Weak<Lane>>>,
    next: AtomicU64,
    /// Held by the start that makes room.
    evicting: tokio::sync::Mutex<()>,
    /// Counts how often room was made.
    rounds: AtomicU64,
}

/// A lane's entry; dropping it takes the lane out.
#[derive(Debug)]
pub(crate) struct Entered {
    lane: Arc<Lane>,
    id: u64,
}

impl Entered {
    /// Returns the lane.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        self.lane.clone()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.lane.tended().lock().remove(&self.id);
    }
}

impl Tended {
    /// Enters a lane whose task is about to begin.
    pub(crate) fn enter(lane: &Arc<Lane>) -> Entered {
        let tended = lane.tended();
        let id = tended.next.fetch_add(1, Ordering::Relaxed);
        tended.lock().insert(id, Arc::downgrade(lane));
        Entered { lane: lane.clone(), id }
    }

    /// Returns the lanes, those of removed functions included.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Starts an instance; where idle ones leave no room, those unused longest stop, and it is tried again.
    ///
    /// # Errors
    /// What the start fails with; `queue_full` when no idle instance is left to stop.
    pub(crate) async fn start<'a>(
        &self,
        start: impl Fn() -> BoxFuture<'a, Result<Started, RuntimeError>>,
    ) -> Result<Started, RuntimeError> {
        let mut tries = 0;
        loop {
            let rounds = self.rounds.load(Ordering::Acquire);
            match start().await {
                Err(full) if full.crowded && tries < TRIES_MAX => {
                    if !self.make_room(rounds).await {
                        return Err(full);
                    }
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Stops idle instances, unless that was done since `rounds`; returns whether there is hope.
    async fn make_room(&self, rounds: u64) -> bool {
        let _turn = self.evicting.lock().await;
        if self.rounds.load(Ordering::Acquire) != rounds {
            return true;
        }
        let mut idle: Vec<_> = self.lanes().into_iter().filter_map(|lane| Some((lane.idle_since()?, lane))).collect();
        idle.sort_by_key(|(since, _)| *since);
        let mut stopped = 0;
        for (_, lane) in idle.iter().take(idle.len().div_ceil(SHARE)) {
            stopped += lane.evict_now().await;
        }
        if stopped > 0 {
            self.rounds.fetch_add(1, Ordering::Release);
            metrics::counter!("faas_evicted_instances_total").increment(stopped as u64);
            tracing::debug!(stopped, "idle instances made room");
        }
        stopped > 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
