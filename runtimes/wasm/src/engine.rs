//! The engines: one set of settings a contract for the compiling child and for the
//! server, the pool of slots, and the clock that interrupts guests.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::{Enabled, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::contract::Contract;
use crate::{Config, share};

/// How often guests are interrupted, and the unit in which CPU time is counted.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Stack of a guest; recursion beyond it is a trap.
const STACK_BYTES: usize = 512 << 10;
/// Stack of a guest and of the host calls on top of it.
const FIBER_BYTES: usize = 2 << 20;
/// Bytes of a slot's memory that are cleared rather than given back. A slot that was ever used keeps
/// so many, and every call that was ever at once had one: this bounds what an idle pool holds.
const KEEP_RESIDENT: usize = 128 << 10;
/// Elements of one table.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances of one component; a component made by other tools than Rust's has dozens.
pub(crate) const CORE_INSTANCES_MAX: u32 = 200;
/// Memories and tables of one component.
pub(crate) const MEMORIES_MAX: u32 = 8;
pub(crate) const TABLES_MAX: u32 = 16;

/// Returns what compiled code depends on: the same in the child and the server.
fn common(contract: Contract) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    let concurrent = contract == Contract::Handler03;
    config.concurrency_support(concurrent);
    config.wasm_component_model_async(concurrent);
    config.epoch_interruption(true);
    config.max_wasm_stack(STACK_BYTES);
    config.async_stack_size(FIBER_BYTES);
    config.memory_init_cow(true);
    config.wasm_component_model(true);
    config.wasm_memory64(false);
    config.wasm_multi_memory(false);
    config.wasm_relaxed_simd(true);
    config.relaxed_simd_deterministic(true);
    config.wasm_custom_page_sizes(false);
    config.cranelift_opt_level(OptLevel::Speed);
    config
}

/// Returns the engine of the compiling child.
pub(crate) fn compiling(contract: Contract) -> wasmtime::Result<Engine> {
    Engine::new(&common(contract))
}

/// Returns the engine that runs guests.
pub(crate) fn running(contract: Contract, config: &Config) -> wasmtime::Result<Engine> {
    let calls = share::calls_max(config);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        // Only counted: each lies in ordinary memory, bounded by the size of all instances of a component.
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(calls)
        .total_tables(calls.saturating_mul(share::SLOT_TABLES))
        .total_stacks(calls)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .table_elements(TABLE_ELEMENTS_MAX)
        .pagemap_scan(Enabled::Auto);
    pool.linear_memory_keep_resident(KEEP_RESIDENT).table_keep_resident(KEEP_RESIDENT / 2);
    let mut settings = common(contract);
    settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&settings)
}

/// Returns a name for everything that compiled code of a contract depends on.
pub(crate) fn compatibility(contract: Contract) -> wasmtime::Result<String> {
    // The default hasher of std is stable within one build of this program; another
    // build gets another name at worst, and compiles again.
    let mut hasher = std::hash::DefaultHasher::new();
    compiling(contract)?.precompile_compatibility_hash().hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Counts ticks, and interrupts the guests of every engine at each.
pub(crate) struct Clock {
    ticks: Arc<AtomicU64>,
    engines: Mutex<Vec<EngineWeak>>,
}

impl Clock {
    /// Starts a clock, which runs for as long as somebody holds it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start() -> std::io::Result<Arc<Self>> {
        let clock = Arc::new(Self { ticks: Arc::new(AtomicU64::new(1)), engines: Mutex::default() });
        let weak = Arc::downgrade(&clock);
        std::thread::Builder::new().name("faas-wasm-tick".into()).spawn(move || {
            // Nobody unparks this thread; an early return is one tick too soon at worst.
            loop {
                std::thread::park_timeout(TICK);
                let Some(clock) = weak.upgrade() else { return };
                clock.tick();
            }
        })?;
        Ok(clock)
    }

    /// Returns the counter.
    pub(crate) fn ticks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ticks)
    }

    /// Interrupts the guests of this engine, too.
    pub(crate) fn drives(&self, engine: &Engine) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.push(engine.weak());
    }

    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|weak| weak.upgrade().inspect(Engine::increment_epoch).is_some());
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::component::{Component, Linker};

    use super::*;

    #[test]
    fn an_idle_slot_keeps_at_most_an_eighth_of_a_mebibyte_of_what_its_calls_touched() {
        let engine = running(Contract::Handler02, &Config { calls_max: 4, ..Config::default() }).unwrap();
        let touches = "(component (core module $m (memory 64) (func $f
            (memory.fill (i32.const 0) (i32.const 7) (i32.const 4194304))) (start $f)) (core instance (instantiate $m)))";
        let component = Component::new(&engine, wat::parse_str(touches).unwrap()).unwrap();
        for _ in 0..3 {
            let mut store = wasmtime::Store::new(&engine, ());
            store.set_epoch_deadline(1);
            Linker::new(&engine).instantiate(&mut store, &component).unwrap();
            drop(store);
            let metrics = engine.pooling_allocator_metrics().unwrap();
            let kept = metrics.unused_memory_bytes_resident();
            assert!((1..=128 << 10).contains(&kept), "{kept} bytes");
        }
    }
}
