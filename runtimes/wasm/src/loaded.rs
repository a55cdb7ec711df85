//! Compiled components in memory: shared by all instances of the same code,
//! and kept a while after the last one stopped.
//!
//! Never more than the configured bytes are kept unused; the one unused longest goes first.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use faas_model::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::contract::Contract;

/// A component that is mapped into memory.
pub(crate) struct Loaded {
    pub contract: Contract,
    pub component: Component,
    gauge: metrics::Gauge,
}

impl Loaded {
    fn new(contract: Contract, component: Component) -> Self {
        let gauge = metrics::gauge!("faas_wasm_components_loaded");
        gauge.increment(1.0);
        Self { contract, component, gauge }
    }

    /// Returns the size of its image.
    pub(crate) fn bytes(&self) -> u64 {
        let range = self.component.image_range();
        (range.end as usize).saturating_sub(range.start as usize) as u64
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// Loads a file that [`compile`](crate::compile) wrote.
///
/// # Errors
/// When the file cannot be read or was made by another build.
pub(crate) fn load(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    #[allow(unsafe_code, reason = "the one place where compiled code is taken from a file")]
    // SAFETY: the file lies in a folder of mode 0700 that only this program writes, under a
    // name it made from the digest of the code; it was written by our own compiling child to
    // a temporary name, synced, and renamed, so it is whole; nobody changes it afterwards.
    unsafe {
        Component::deserialize_file(engine, path)
    }
}

/// The components in memory.
#[derive(Default)]
pub(crate) struct Cache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Digest, Weak<Loaded>>,
    /// The most recently started last.
    kept: Vec<(Digest, Arc<Loaded>)>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        metrics::describe_gauge!("faas_wasm_components_loaded", "Compiled components in memory.");
        Self::default()
    }

    /// Returns a component that is in memory.
    pub(crate) fn get(&self, digest: &Digest, spare_bytes_max: u64) -> Option<Arc<Loaded>> {
        let found = self.lock().known.get(digest)?.upgrade()?;
        self.keep(*digest, &found, spare_bytes_max);
        Some(found)
    }

    /// Takes a component in, or returns the one that another start loaded meanwhile.
    pub(crate) fn put(
        &self,
        digest: Digest,
        contract: Contract,
        component: Component,
        spare_bytes_max: u64,
    ) -> Arc<Loaded> {
        let loaded = {
            let mut state = self.lock();
            match state.known.get(&digest).and_then(Weak::upgrade) {
                Some(loaded) => loaded,
                None => {
                    let loaded = Arc::new(Loaded::new(contract, component));
                    state.known.retain(|_, known| known.strong_count() > 0);
                    state.known.insert(digest, Arc::downgrade(&loaded));
                    loaded
                }
            }
        };
        self.keep(digest, &loaded, spare_bytes_max);
        loaded
    }

    /// Forgets a component; instances that run it keep it.
    pub(crate) fn forget(&self, digest: &Digest) {
        let mut state = self.lock();
        state.known.remove(digest);
        state.kept.retain(|(kept, _)| kept != digest);
    }

    /// Marks a component as just used, and lets go of unused ones over the bound.
    fn keep(&self, digest: Digest, loaded: &Arc<Loaded>, spare_bytes_max: u64) {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        state.kept.retain(|(kept, _)| *kept != digest);
        state.kept.push((digest, Arc::clone(loaded)));
        // The list's own count is one; what instances hold besides is not spare.
        let is_spare = |loaded: &Arc<Loaded>| Arc::strong_count(loaded) == 1;
        let mut spare: u64 = state.kept.iter().filter(|(_, l)| is_spare(l)).map(|(_, l)| l.bytes()).sum();
        let mut at = 0;
        while spare > spare_bytes_max
            && let Some((_, oldest)) = state.kept.get(at)
        {
            if is_spare(oldest) {
                spare = spare.saturating_sub(oldest.bytes());
                dropped.push(state.kept.remove(at));
            } else {
                at += 1;
            }
        }
        // Unmapping takes time; it is done without the lock.
        drop(state);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: Contract = Contract::Handler02;

    fn component(engine: &Engine, n: u32) -> Component {
        let text = format!("(component (core module (func (export \"f\") (result i32) i32.const {n})))");
        Component::new(engine, wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn unused_components_over_the_bound_go_the_longest_unused_first_and_used_ones_stay() {
        let engine = crate::engine::compiling(CONTRACT).unwrap();
        let cache = Cache::new();
        let digest = |n: u32| Digest::of(&n.to_le_bytes());
        let used = cache.put(digest(0), CONTRACT, component(&engine, 0), u64::MAX);
        let bound = used.bytes() * 2;
        for n in 1..4 {
            drop(cache.put(digest(n), CONTRACT, component(&engine, n), bound));
        }
        // The next start lets go of what is over the bound by then.
        drop(cache.put(digest(4), CONTRACT, component(&engine, 4), bound));
        let there = |n: u32| cache.lock().known.get(&digest(n)).is_some_and(|known| known.strong_count() > 0);
        assert!(there(0), "what an instance uses stays");
        assert!(!there(1) && there(3) && there(4), "the longest unused goes first");
        drop(used);
        cache.forget(&digest(0));
        assert!(!there(0) && cache.get(&digest(0), bound).is_none());
    }

    #[test]
    fn two_starts_of_the_same_code_share_what_is_loaded() {
        let engine = crate::engine::compiling(CONTRACT).unwrap();
        let cache = Cache::new();
        let digest = Digest::of(b"same");
        let one = cache.put(digest, CONTRACT, component(&engine, 1), 0);
        let two = cache.put(digest, CONTRACT, component(&engine, 1), 0);
        assert!(Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&one, &cache.get(&digest, 0).unwrap()));
    }
}
