//! What all calls share, and what each may take of it: slots for calls, and
//! the memory of guests.
//!
//! Neither is waited for: a call that finds none is refused, and may be retried.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use faas_model::{FunctionName, Reason};
use faas_runtime::RuntimeError;
use wasmtime::component::Component;

use crate::Config;
use crate::engine::{MEMORIES_MAX, TABLES_MAX};
use crate::loaded::Bounds;

/// Tables of one slot; the pool holds so many per slot.
pub(crate) const SLOT_TABLES: u32 = 2;
/// Memory of guests where the machine does not tell what it has.
const MEMORY_BLIND: u64 = 2 << 30;

/// Entries of functions that are gone are not looked for below so many entries.
const SWEEP_MIN: usize = 64;
/// Mappings of a process where the kernel does not tell its bound.
const MAPS_BLIND: u64 = 65_530;
/// Mappings of the process besides: threads, heap, libraries, the store.
const MAPS_REST: u64 = 4096;
/// Mappings of one call slot: memory, guards and stack.
const MAPS_SLOT: u64 = 6;
/// Mappings of one loaded component: code, and data before and after it.
const MAPS_LOADED: u64 = 3;
/// Components that may be loaded whatever the kernel says: fewer would serve nobody.
const LOADED_MIN: u64 = 16;

/// A number that never exceeds its bound.
#[derive(Debug)]
pub(crate) struct Budget {
    max: u64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(max: u64) -> Self {
        Self { max, used: AtomicU64::new(0) }
    }

    /// Takes `n` if they are there.
    pub(crate) fn take(&self, n: u64) -> bool {
        let taken = |used: u64| used.checked_add(n).filter(|used| *used <= self.max);
        // Relaxed: only the number itself is shared.
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, n: u64) {
        self.used.fetch_sub(n, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// The slots for calls, and who has how many.
#[derive(Debug)]
pub(crate) struct Slots {
    all: Arc<Budget>,
    function_max: u64,
    functions: Mutex<Functions>,
}

/// The functions that have slots, and some that had; those are swept when the map has doubled.
#[derive(Debug, Default)]
struct Functions {
    known: HashMap<FunctionName, Weak<Budget>>,
    sweep_at: usize,
}

/// The slots of one function, all its revisions together.
#[derive(Debug, Clone)]
pub(crate) struct FunctionSlots {
    all: Arc<Budget>,
    own: Arc<Budget>,
}

/// The slots of one call; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: FunctionSlots,
    n: u64,
}

impl Slots {
    pub(crate) fn new(config: &Config) -> Self {
        let all = Arc::new(Budget::new(calls_max(config).into()));
        Self { all, function_max: function_max(config).into(), functions: Mutex::default() }
    }

    pub(crate) fn of(&self, function: &FunctionName) -> FunctionSlots {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = functions.known.get(function).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            let own = Arc::new(Budget::new(self.function_max));
            if functions.known.len() >= functions.sweep_at {
                functions.known.retain(|_, known| known.strong_count() > 0);
                functions.sweep_at = (functions.known.len() * 2).max(SWEEP_MIN);
            }
            functions.known.insert(function.clone(), Arc::downgrade(&own));
            own
        });
        FunctionSlots { all: Arc::clone(&self.all), own }
    }
}

impl FunctionSlots {
    /// Takes the slots of one call.
    ///
    /// # Errors
    /// `queue_full` names the bound.
    pub(crate) fn take(&self, n: u32) -> Result<Slot, RuntimeError> {
        let n = n.into();
        if !self.own.take(n) {
            let detail = format!("the function has all {} call slots that one may have", self.own.max);
            return Err(RuntimeError::new(Reason::QueueFull, detail));
        }
        if !self.all.take(n) {
            self.own.give(n);
            let detail = format!("all {} call slots of the runtime are taken", self.all.max);
            return Err(RuntimeError::new(Reason::QueueFull, detail));
        }
        Ok(Slot { slots: self.clone(), n })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.all.give(self.n);
        self.slots.own.give(self.n);
    }
}

/// Returns how many slots there are.
pub(crate) fn calls_max(config: &Config) -> u32 {
    config.calls_max.clamp(1, 8000)
}

/// Returns how many slots one function may have.
pub(crate) fn function_max(config: &Config) -> u32 {
    let all = calls_max(config);
    let wanted = if config.calls_per_function_max == 0 { all - all / 4 } else { config.calls_per_function_max };
    wanted.min(all)
}

/// Returns how many slots a call of this component takes: one for each memory or two tables.
///
/// # Errors
/// A sentence with the numbers, when that is more than one function may have.
pub(crate) fn slots_of(component: &Component, function_max: u32) -> Result<u32, String> {
    // Unknown only for a component that imports modules, which the contract does not allow.
    let needed = component.resources_required();
    let (memories, tables) = needed.map_or((MEMORIES_MAX, TABLES_MAX), |n| (n.num_memories, n.num_tables));
    let slots = memories.max(tables.div_ceil(SLOT_TABLES)).max(1);
    if slots > function_max {
        let has = format!("the component has {memories} memories and {tables} tables");
        return Err(format!("{has}: a call takes {slots} call slots, a function may have {function_max}"));
    }
    Ok(slots)
}

/// Returns the memory that all guests may have together.
pub(crate) fn memory_total(config: &Config) -> u64 {
    if config.memory_total_max.0 > 0 {
        return config.memory_total_max.0;
    }
    memory().map_or(MEMORY_BLIND, |bytes| bytes / 2)
}

/// Returns the memory of the machine, or of the container that has less.
fn memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| machine_memory(&text));
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min()
}

/// Returns how many components may be loaded at once, and how many bytes of them.
pub(crate) fn loaded_bounds(config: &Config) -> Bounds {
    let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let room = loaded_room(maps.unwrap_or(MAPS_BLIND), files, calls_max(config));
    let wanted = u64::from(config.loaded_max);
    // What is asked for beyond the room would end in a failed allocation, not in a refusal.
    let loaded_max = if wanted == 0 { room } else { wanted.min(room) };
    let bytes_max = match config.loaded_bytes_max.0 {
        0 => memory().map_or(MEMORY_BLIND, |bytes| bytes / 4),
        bytes => bytes,
    };
    Bounds { loaded_max, bytes_max, spare_bytes_max: config.spare_bytes_max.0 }
}

/// Returns how many components the kernel's bounds leave room for: of the mappings, those that
/// neither call slots nor the rest of the process take; of the descriptors, three quarters.
fn loaded_room(maps: u64, files: Option<u64>, calls_max: u32) -> u64 {
    let maps = maps.saturating_sub(MAPS_REST + u64::from(calls_max) * MAPS_SLOT) / MAPS_LOADED;
    let files = files.map_or(u64::MAX, |files| files / 4 * 3);
    maps.min(files).max(LOADED_MIN)
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use faas_model::Name;

    use super::*;

    fn function(name: &str) -> FunctionName {
        FunctionName::new(Name::new("default").unwrap(), Name::new(name).unwrap())
    }

    #[test]
    fn one_function_has_three_quarters_of_the_slots_and_neighbours_the_rest() {
        let slots = Slots::new(&Config { calls_max: 8, ..Config::default() });
        let (greedy, neighbour) = (slots.of(&function("greedy")), slots.of(&function("neighbour")));
        let held: Vec<_> = std::iter::from_fn(|| slots.of(&function("greedy")).take(1).ok()).take(100).collect();
        assert_eq!(held.len(), 6, "all revisions of a function share its bound");
        let refused = greedy.take(1).unwrap_err();
        assert!(refused.reason == Reason::QueueFull && refused.detail.contains("all 6"), "{refused}");
        let (_one, two) = (neighbour.take(1).unwrap(), neighbour.take(1).unwrap());
        let refused = neighbour.take(1).unwrap_err();
        assert!(refused.reason == Reason::QueueFull && refused.detail.contains("all 8"), "{refused}");
        drop(two);
        assert!(neighbour.take(1).is_ok(), "a call that ends leaves its slot");
        assert!(greedy.take(1).is_err());
        drop(held);
        assert!(greedy.take(6).is_ok());
    }

    #[test]
    fn the_share_of_a_function_is_never_none_and_never_over_all() {
        let share = |calls_max, calls_per_function_max| {
            function_max(&Config { calls_max, calls_per_function_max, ..Config::default() })
        };
        assert_eq!((share(1, 0), share(2, 0), share(1000, 0)), (1, 2, 750));
        assert_eq!((share(8, 8), share(8, 100), share(8, 2)), (8, 8, 2));
    }

    #[test]
    fn a_component_takes_a_slot_for_each_memory_or_two_tables() {
        let engine = crate::engine::compiling(crate::contract::Contract::Handler02).unwrap();
        let slots = |parts: &str, max| {
            let text = format!("(component (core module $m {parts}) (core instance (instantiate $m)))");
            slots_of(&Component::new(&engine, wat::parse_str(text).unwrap()).unwrap(), max)
        };
        let tables = "(table 1 funcref)".repeat(5);
        assert_eq!((slots("", 1), slots("(memory 1)", 1), slots(&tables, 3)), (Ok(1), Ok(1), Ok(3)));
        let refused = slots(&tables, 2).unwrap_err();
        assert!(refused.contains("5 tables") && refused.contains("may have 2"), "{refused}");
    }

    #[test]
    fn the_kernels_bounds_leave_room_for_so_many_components() {
        // Linux's default, the default of calls, and a service's usual limit of descriptors.
        assert_eq!(loaded_room(65_530, Some(524_288), 1000), (65_530 - 4096 - 6000) / 3);
        assert_eq!(loaded_room(65_530, Some(1024), 1000), 768, "descriptors may end first");
        assert_eq!(loaded_room(65_530, None, 8000), (65_530 - 4096 - 48_000) / 3, "call slots take theirs");
        assert_eq!(loaded_room(65_530, Some(64), 1000), 48);
        assert_eq!((loaded_room(0, None, 1), loaded_room(100, Some(4), 1)), (16, 16), "never none");
        let bounds = |loaded_max| loaded_bounds(&Config { loaded_max, ..Config::default() }).loaded_max;
        assert_eq!(bounds(20), 20);
        assert_eq!(bounds(u32::MAX), bounds(0), "more than there is room for cannot be had");
    }

    #[test]
    fn functions_that_are_gone_leave_no_entry_for_long() {
        let slots = Slots::new(&Config::default());
        let kept: Vec<_> = (0..10).map(|n| slots.of(&function(&format!("kept{n}")))).collect();
        for n in 0..1000 {
            drop(slots.of(&function(&format!("gone{n}"))));
            assert!(slots.functions.lock().unwrap().known.len() <= 2 * SWEEP_MIN);
        }
        assert!(kept.iter().all(|one| one.take(1).is_ok()));
        let again = slots.of(&function("kept3"));
        assert!(Arc::ptr_eq(&again.own, &kept[3].own), "a sweep takes none that is used");
    }

    #[test]
    fn the_machines_memory_is_read_where_the_settings_name_none() {
        assert_eq!(machine_memory("MemTotal:       24000000 kB\nMemFree: 1 kB\n"), Some(24_000_000 << 10));
        assert_eq!(machine_memory("MemFree: 1 kB"), None);
        assert!(memory_total(&Config::default()) > 64 << 20);
    }
}
