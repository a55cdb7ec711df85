//! What the guests know to be durable, kept outside of the platform: it survives crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by all lives of a seed.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Pages>>);

#[derive(Default)]
pub(crate) struct Pages {
    /// Messages whose effect the store acknowledged.
    pub(crate) effects: BTreeSet<String>,
    /// Increments asked for and acknowledged.
    pub(crate) asked: i64,
    pub(crate) acknowledged: i64,
    /// Numbers that a compare-and-set wrote, each once.
    pub(crate) swapped: BTreeSet<i64>,
    pub(crate) swaps_asked: i64,
    /// Published messages and their queue.
    pub(crate) published: BTreeMap<String, String>,
    /// How often each HTTP request reached a guest.
    pub(crate) reached: BTreeMap<String, u32>,
}

impl Ledger {
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_effect(&self, message: &str) -> bool {
        self.pages().effects.contains(message)
    }
}
