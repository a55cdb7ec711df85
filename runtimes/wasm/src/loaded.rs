//! Compiled components in memory: shared by all instances of the same code,
//! and kept a while after the last one stopped.
//!
//! Never more than [`Bounds`] says are loaded. What no instance uses is spare, and goes
//! first, the one unused longest before the others; when all are used, the next is refused.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use faas_model::Digest;
use faas_runtime::RuntimeError;
use wasmtime::Engine;
use wasmtime::component::Component;

/// What may be in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Components at most.
    pub loaded_max: u64,
    /// Bytes of all of them at most; a single one may be larger.
    pub bytes_max: u64,
    /// Bytes of those that no instance uses at most.
    pub spare_bytes_max: u64,
}

/// A component in memory that somebody uses; when the last user lets go of it, it is spare.
pub(crate) struct Loaded {
    pub component: Component,
    digest: Digest,
    /// Tells it from one that took its place in the cache.
    turn: u64,
    cache: Weak<Mutex<State>>,
}

impl Loaded {
    /// Returns the size of its image.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.component)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(state) = self.cache.upgrade() {
            let dropped = lock(&state).release(self);
            // Unmapping takes time; it is done without the lock.
            drop(dropped);
        }
    }
}

fn bytes_of(component: &Component) -> u64 {
    let range = component.image_range();
    (range.end as usize).saturating_sub(range.start as usize) as u64
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
pub(crate) struct Cache {
    state: Arc<Mutex<State>>,
}

struct State {
    bounds: Bounds,
    known: HashMap<Digest, Entry>,
    /// The spare ones by when they became it, the one unused longest first.
    spare: BTreeMap<u64, Digest>,
    turn_next: u64,
    /// Of all in memory, forgotten ones that are still used included.
    bytes: u64,
    spare_bytes: u64,
    loaded: u64,
    gauge: metrics::Gauge,
}

enum Entry {
    Used { turn: u64, loaded: Weak<Loaded> },
    Spare { turn: u64, component: Component },
}

impl Cache {
    pub(crate) fn new(bounds: Bounds) -> Self {
        metrics::describe_gauge!("faas_wasm_components_loaded", "Compiled components in memory.");
        metrics::describe_gauge!("faas_wasm_components_loaded_max", "Compiled components in memory at most.");
        metrics::gauge!("faas_wasm_components_loaded_max").set(bounds.loaded_max as f64);
        let state = State {
            bounds,
            known: HashMap::new(),
            spare: BTreeMap::new(),
            turn_next: 0,
            bytes: 0,
            spare_bytes: 0,
            loaded: 0,
            gauge: metrics::gauge!("faas_wasm_components_loaded"),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns a component that is in memory.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<Loaded>> {
        self.get_locked(&mut lock(&self.state), digest)
    }

    fn get_locked(&self, state: &mut State, digest: &Digest) -> Option<Arc<Loaded>> {
        let component = match state.known.get(digest)? {
            // One whose last user is just letting go of it counts as gone: it waits for this lock.
            Entry::Used { loaded, .. } => return loaded.upgrade(),
            Entry::Spare { .. } => state.unspare(digest)?,
        };
        Some(self.hand_out(state, *digest, component))
    }

    /// Takes a component in, or returns the one that another start loaded meanwhile.
    ///
    /// # Errors
    /// `crowded` when instances use as many as may be loaded.
    pub(crate) fn put(&self, digest: Digest, component: Component) -> Result<Arc<Loaded>, RuntimeError> {
        let bytes = bytes_of(&component);
        let mut state = lock(&self.state);
        if let Some(loaded) = self.get_locked(&mut state, &digest) {
            return Ok(loaded);
        }
        let dropped = state.make_room(bytes);
        let refused = state.refusal(bytes);
        if refused.is_none() {
            state.loaded += 1;
            state.bytes += bytes;
        }
        let outcome = match refused {
            Some(refused) => Err(refused),
            None => Ok(self.hand_out(&mut state, digest, component)),
        };
        state.tell();
        drop(state);
        drop(dropped);
        outcome
    }

    /// Forgets a component; instances that run it keep it.
    pub(crate) fn forget(&self, digest: &Digest) {
        let mut state = lock(&self.state);
        let dropped = match state.known.get(digest) {
            Some(Entry::Spare { .. }) => state.drop_spare(digest),
            _ => None,
        };
        state.known.remove(digest);
        state.tell();
        drop(state);
        drop(dropped);
    }

    fn hand_out(&self, state: &mut State, digest: Digest, component: Component) -> Arc<Loaded> {
        let turn = state.turn();
        let loaded = Arc::new(Loaded { component, digest, turn, cache: Arc::downgrade(&self.state) });
        state.known.insert(digest, Entry::Used { turn, loaded: Arc::downgrade(&loaded) });
        loaded
    }
}

impl State {
    fn turn(&mut self) -> u64 {
        self.turn_next += 1;
        self.turn_next
    }

    /// Takes a spare component out of the spare ones; it stays loaded.
    fn unspare(&mut self, digest: &Digest) -> Option<Component> {
        let Some(Entry::Spare { turn, component }) = self.known.remove(digest) else { return None };
        self.spare.remove(&turn);
        self.spare_bytes = self.spare_bytes.saturating_sub(bytes_of(&component));
        Some(component)
    }

    /// Takes a spare component out of memory.
    fn drop_spare(&mut self, digest: &Digest) -> Option<Component> {
        let component = self.unspare(digest)?;
        self.gone(&component);
        Some(component)
    }

    fn drop_oldest(&mut self) -> Option<Component> {
        let digest = *self.spare.first_key_value()?.1;
        self.drop_spare(&digest)
    }

    fn gone(&mut self, component: &Component) {
        self.loaded = self.loaded.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes_of(component));
    }

    /// Takes back what its last user let go of; returns what is to be unmapped.
    fn release(&mut self, loaded: &Loaded) -> Vec<Component> {
        match self.known.get(&loaded.digest) {
            Some(Entry::Used { turn, .. }) if *turn == loaded.turn => {}
            // Forgotten, or loaded anew while this one was on its way out.
            _ => {
                self.gone(&loaded.component);
                self.tell();
                return Vec::new();
            }
        }
        let (turn, component) = (self.turn(), loaded.component.clone());
        self.spare_bytes += bytes_of(&component);
        self.spare.insert(turn, loaded.digest);
        self.known.insert(loaded.digest, Entry::Spare { turn, component });
        let mut dropped = Vec::new();
        while self.spare_bytes > self.bounds.spare_bytes_max
            && let Some(oldest) = self.drop_oldest()
        {
            dropped.push(oldest);
        }
        self.tell();
        dropped
    }

    /// Lets go of spare components until one more of so many bytes fits, or none is left.
    fn make_room(&mut self, bytes: u64) -> Vec<Component> {
        let mut dropped = Vec::new();
        while self.refusal(bytes).is_some()
            && let Some(oldest) = self.drop_oldest()
        {
            dropped.push(oldest);
        }
        dropped
    }

    /// Returns why one more component of so many bytes does not fit, if it does not.
    fn refusal(&self, bytes: u64) -> Option<RuntimeError> {
        let Bounds { loaded_max, bytes_max, .. } = self.bounds;
        if self.loaded >= loaded_max {
            let detail = format!("all {loaded_max} components that may be loaded are used (wasm.loaded_max)");
            return Some(RuntimeError::crowded(detail));
        }
        if self.loaded > 0 && self.bytes + bytes > bytes_max {
            let detail =
                format!("the components in use leave less than {bytes} of {bytes_max} bytes (wasm.loaded_bytes_max)");
            return Some(RuntimeError::crowded(detail));
        }
        None
    }

    fn tell(&self) {
        self.gauge.set(self.loaded as f64);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use faas_model::Reason;

    use super::*;
    use crate::contract::Contract;

    const WIDE: Bounds = Bounds { loaded_max: u64::MAX, bytes_max: u64::MAX, spare_bytes_max: u64::MAX };

    fn component(engine: &Engine, n: u32) -> Component {
        let text = format!("(component (core module (func (export \"f\") (result i32) i32.const {n})))");
        Component::new(engine, wat::parse_str(text).unwrap()).unwrap()
    }

    fn digest(n: u32) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    /// A cache, and what puts component `n` there.
    struct Bench {
        engine: Engine,
        cache: Cache,
    }

    impl Bench {
        fn new(bounds: Bounds) -> Self {
            Self { engine: crate::engine::compiling(Contract::Handler02).unwrap(), cache: Cache::new(bounds) }
        }

        fn put(&self, n: u32) -> Result<Arc<Loaded>, RuntimeError> {
            self.cache.put(digest(n), component(&self.engine, n))
        }

        fn there(&self) -> Vec<u32> {
            let state = lock(&self.cache.state);
            assert_eq!(state.spare.len(), state.known.values().filter(|e| matches!(e, Entry::Spare { .. })).count());
            (0..10).filter(|n| state.known.contains_key(&digest(*n))).collect()
        }

        fn loaded(&self) -> u64 {
            lock(&self.cache.state).loaded
        }
    }

    fn bytes() -> u64 {
        bytes_of(&component(&crate::engine::compiling(Contract::Handler02).unwrap(), 0))
    }

    #[test]
    fn unused_components_over_the_bound_go_the_longest_unused_first_and_used_ones_stay() {
        let bench = Bench::new(Bounds { spare_bytes_max: bytes() * 2, ..WIDE });
        let used = bench.put(0).unwrap();
        for n in 1..4 {
            drop(bench.put(n).unwrap());
        }
        assert_eq!(bench.there(), [0, 2, 3], "what an instance uses stays, the longest unused goes first");
        // A use makes it the youngest.
        drop(bench.cache.get(&digest(2)).unwrap());
        drop(bench.put(4).unwrap());
        assert_eq!(bench.there(), [0, 2, 4]);
        assert_eq!(bench.loaded(), 3);
        bench.cache.forget(&digest(2));
        bench.cache.forget(&digest(0));
        assert!(bench.cache.get(&digest(0)).is_none());
        assert_eq!((bench.there(), bench.loaded()), (vec![4], 2), "a forgotten one that is used is in memory still");
        drop(used);
        assert_eq!((bench.there(), bench.loaded()), (vec![4], 1));
    }

    #[test]
    fn at_the_bound_spare_ones_make_room_and_used_ones_are_the_end_which_is_named() {
        let bench = Bench::new(Bounds { loaded_max: 2, ..WIDE });
        let (one, two) = (bench.put(1).unwrap(), bench.put(2).unwrap());
        let refused = bench.put(3).err().unwrap();
        assert!(refused.crowded && refused.reason == Reason::QueueFull, "{refused}");
        assert!(refused.detail.contains("all 2") && refused.detail.contains("wasm.loaded_max"), "{refused}");
        assert!(Arc::ptr_eq(&one, &bench.put(1).unwrap()), "what is loaded needs no room");
        drop(one);
        let three = bench.put(3).unwrap();
        assert_eq!((bench.there(), bench.loaded()), (vec![2, 3], 2));
        drop((two, three));
        assert_eq!(bench.loaded(), 2);
    }

    #[test]
    fn bytes_are_bounded_likewise_and_a_single_component_may_be_larger() {
        let bench = Bench::new(Bounds { bytes_max: bytes() * 2, ..WIDE });
        let (_one, two) = (bench.put(1).unwrap(), bench.put(2).unwrap());
        let refused = bench.put(3).err().unwrap();
        assert!(refused.crowded && refused.detail.contains("wasm.loaded_bytes_max"), "{refused}");
        drop(two);
        assert!(bench.put(3).is_ok());
        let tiny = Bench::new(Bounds { bytes_max: 1, ..WIDE });
        let _large = tiny.put(1).unwrap();
        assert!(tiny.put(2).is_err());
    }

    #[test]
    fn two_starts_of_the_same_code_share_what_is_loaded() {
        let bench = Bench::new(Bounds { spare_bytes_max: 0, ..WIDE });
        let (one, two) = (bench.put(1).unwrap(), bench.put(1).unwrap());
        assert!(Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&one, &bench.cache.get(&digest(1)).unwrap()));
        drop((one, two));
        assert_eq!((bench.there(), bench.loaded()), (vec![], 0));
    }
}
