//! Which code uploads in flight need, so that collection leaves it alone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use faas_model::Digest;

/// Counts the holds of every digest.
#[derive(Debug, Default, Clone)]
pub(crate) struct Holds(Arc<Mutex<HashMap<Digest, usize>>>);

/// Keeps one digest from collection until dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    digest: Digest,
    holds: Holds,
}

impl Holds {
    pub(crate) fn hold(&self, digest: Digest) -> Hold {
        *self.lock().entry(digest).or_default() += 1;
        Hold { digest, holds: self.clone() }
    }

    pub(crate) fn held(&self) -> HashSet<Digest> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut counts = self.holds.lock();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}
