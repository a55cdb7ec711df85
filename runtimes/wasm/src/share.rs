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

/// Tables of one slot; the pool holds so many per slot.
pub(crate) const SLOT_TABLES: u32 = 2;
/// Memory of guests where the machine does not tell what it has.
const MEMORY_BLIND: u64 = 2 << 30;

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
    functions: Mutex<HashMap<FunctionName, Weak<Budget>>>,
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
        let known = functions.get(function).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            let own = Arc::new(Budget::new(self.function_max));
            functions.retain(|_, known| known.strong_count() > 0);
            functions.insert(function.clone(), Arc::downgrade(&own));
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
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| machine_memory(&text));
    // A container may have less than its machine.
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min().map_or(MEMORY_BLIND, |bytes: u64| bytes / 2)
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
    fn the_machines_memory_is_read_where_the_settings_name_none() {
        assert_eq!(machine_memory("MemTotal:       24000000 kB\nMemFree: 1 kB\n"), Some(24_000_000 << 10));
        assert_eq!(machine_memory("MemFree: 1 kB"), None);
        assert!(memory_total(&Config::default()) > 64 << 20);
    }
}
