//! Stores that were made to learn whether a component starts: the first call takes one, where it comes soon.
//!
//! Each holds a slot and the memory of a started guest, so only the newest few are kept, and none where a call finds
//! no slot; whoever comes too late for its store has a fresh one like every other call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::call::Live;

/// Stores that are kept for their first calls at most.
const KEPT_MAX: usize = 16;

/// Most memory of a guest that is kept so.
pub(crate) const TRIAL_BYTES_MAX: u64 = 4 << 20;

/// The store of one instance, until its first call takes it.
pub(crate) struct Trial {
    /// Tells calls without a lock that there is none.
    there: AtomicBool,
    live: Mutex<Option<Live>>,
}

impl Trial {
    pub(crate) fn new(live: Option<Live>) -> Arc<Self> {
        Arc::new(Self { there: AtomicBool::new(live.is_some()), live: Mutex::new(live) })
    }

    /// Takes the store, if it is there.
    pub(crate) fn take(&self) -> Option<Live> {
        let there = self.there.load(Ordering::Relaxed) && self.there.swap(false, Ordering::AcqRel);
        if there { self.live.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None }
    }
}

/// The trials that are kept.
#[derive(Default)]
pub(crate) struct Trials(Mutex<VecDeque<Weak<Trial>>>);

impl Trials {
    /// Keeps one more, in place of the oldest where there are too many.
    pub(crate) fn keep(&self, trial: &Arc<Trial>) {
        let oldest = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(Arc::downgrade(trial));
            if kept.len() > KEPT_MAX { kept.pop_front() } else { None }
        };
        drop(oldest.and_then(|oldest| oldest.upgrade()).and_then(|oldest| oldest.take()));
    }

    /// Gives up all of them; returns whether there was one.
    pub(crate) fn give_up(&self) -> bool {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        kept.into_iter().filter_map(|trial| trial.upgrade()?.take()).count() > 0
    }
}
