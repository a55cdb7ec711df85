//! The runtime: what all functions share, and a function's revision.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use faas_model::manifest::{Reuse, RuntimeKind};
use faas_model::{CallId, Digest, Name, Reason};
use faas_runtime::egress::{Egress, Outlet};
use faas_runtime::logs::CallLog;
use faas_runtime::{Code, Prepared, Runtime, RuntimeError, Started, Unit};
use faas_store::bucket::Buckets;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use wasmtime::Store;

use crate::call::{Guest, Live};
use crate::compile::{Compiler, internal};
use crate::contract::{Contract, Worlds};
use crate::engine::Clock;
use crate::host::keyvalue::Grants;
use crate::host::outgoing::Hooks;
use crate::instance::{Linked, WasmInstance};
use crate::lane::{Lane, Ramp};
use crate::loaded::{Cache, Loaded, load};
use crate::meter::Meter;
use crate::share::{Budget, FunctionSlots, Slots, slots_of};
use crate::state::{Limiter, State};
use crate::trial::{TRIAL_BYTES_MAX, Trials};
use crate::{CompileCommand, Config, engine, failure, share};

/// What to do about a component that cannot answer several calls at once.
const NOT_CONCURRENT: &str = "reuse = \"concurrent\" needs a component of WASI 0.3, and this one exports \
    wasi:http/incoming-handler 0.2, which takes one call at a time: set reuse = \"sequential\", or build the \
    function with bindings of WASI 0.3";

/// Runs Wasm components.
pub struct WasmRuntime {
    engines: Arc<Engines>,
}

/// Compiled code up to this size is mapped on the thread that asks for it.
const LOAD_HERE_BYTES_MAX: u64 = 1 << 20;

/// What all functions share.
pub(crate) struct Engines {
    pub config: Config,
    pub worlds: Arc<Worlds>,
    pub ticks: Arc<AtomicU64>,
    pub lane: Arc<Lane>,
    pub buckets: Buckets,
    egress: Egress,
    /// The memory of all guests.
    memory: Arc<Budget>,
    slots: Slots,
    compiler: Compiler,
    cache: Cache,
    trials: Trials,
}

/// A revision that can be started.
pub(crate) struct Revision {
    pub engines: Arc<Engines>,
    pub unit: Unit,
    pub env: Arc<[(String, String)]>,
    pub granted: Arc<BTreeSet<Name>>,
    pub ticks_max: u32,
    pub ramp: Arc<Ramp>,
    outlet: Arc<Outlet>,
    slots: FunctionSlots,
}

impl WasmRuntime {
    /// Starts the engine, its clock and its lane; opens the folder of compiled code, which
    /// becomes private to this user and is cleared of what other builds left.
    ///
    /// # Errors
    /// `internal` when the engine, a thread or the folder cannot be had.
    pub fn new(
        config: Config,
        compiled_dir: PathBuf,
        compile_command: CompileCommand,
        buckets: Buckets,
        egress: Egress,
    ) -> Result<Arc<Self>, RuntimeError> {
        let no_engine = |e: wasmtime::Error| internal("make the Wasm engine", &format!("{e:#}"));
        let clock = Clock::start().map_err(|e| internal("start the engine's clock", &e))?;
        let ticks = clock.ticks();
        let worlds = Arc::new(Worlds::new(&config, clock).map_err(no_engine)?);
        let named = |contract| Ok((contract, engine::compatibility(contract)?));
        let compatibility = Contract::ALL.into_iter().map(named).collect::<Result<_, _>>().map_err(no_engine)?;
        let compiler = Compiler::open(compiled_dir, compile_command, compatibility, &config)
            .map_err(|e| internal("open the folder of compiled code", &e))?;
        let lane = Lane::new(&config).map_err(|e| internal("start the lane", &e))?;
        let lane = Arc::new(lane);
        let memory = Arc::new(Budget::new(share::memory_total(&config)));
        let (slots, cache) = (Slots::new(&config), Cache::new(share::loaded_bounds(&config)));
        let engines = Engines {
            config,
            worlds,
            ticks,
            lane,
            buckets,
            egress,
            memory,
            slots,
            compiler,
            cache,
            trials: Trials::default(),
        };
        Ok(Arc::new(Self { engines: Arc::new(engines) }))
    }
}

impl fmt::Debug for WasmRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmRuntime").field("config", &self.engines.config).finish_non_exhaustive()
    }
}

impl Runtime for WasmRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Wasm
    }

    fn install<'a>(&'a self, code: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move { self.engines.compiler.ensure(&self.engines.worlds, code).await.map(drop) })
    }

    fn installed(&self, code: &Digest) -> bool {
        matches!(self.engines.compiler.find(code), Ok(Some(_)))
    }

    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.engines.cache.forget(code);
            self.engines.compiler.forget(code).await;
        })
    }

    fn prepare(&self, unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        if unit.spec.reuse == Reuse::Concurrent
            && let Some((Contract::Handler02, _)) = self.engines.compiler.find(&unit.code)?
        {
            return Err(RuntimeError::new(Reason::Unprocessable, NOT_CONCURRENT));
        }
        let env = unit.spec.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let granted = Arc::new(unit.spec.state.clone());
        let ticks = u128::from(unit.spec.limits.cpu.0).div_ceil(engine::TICK.as_millis());
        let ticks_max = u32::try_from(ticks).unwrap_or(u32::MAX);
        let engines = Arc::clone(&self.engines);
        let slots = engines.slots.of(&unit.function);
        let outlet = Arc::new(engines.egress.outlet(&unit.function, &unit.spec.egress));
        let ramp = Ramp::new(&engines.lane);
        let revision = Arc::new(Revision { engines, unit, env, granted, ticks_max, ramp, outlet, slots });
        Ok(Arc::new(Ready { revision, linked: Mutex::default() }))
    }
}

/// The form of a revision that the function service holds.
struct Ready {
    revision: Arc<Revision>,
    /// What its instances share, while there is one.
    linked: Mutex<Weak<Linked>>,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = &self.revision.unit;
        f.debug_tuple("Ready").field(&unit.function).field(&unit.revision).finish()
    }
}

impl Ready {
    fn linked(&self) -> MutexGuard<'_, Weak<Linked>> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared for Ready {
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        Box::pin(async move {
            let (begun, revision) = (Instant::now(), &self.revision);
            let started = |linked, live: Option<Live>, phases| {
                let small = |live: &Live| live.store.data().limiter.memory_bytes() <= TRIAL_BYTES_MAX;
                let never = revision.unit.spec.reuse == Reuse::Never;
                let live = live.filter(|live| !never || small(live));
                let tried = live.is_some();
                let instance = Arc::new(WasmInstance::new(Arc::clone(revision), linked, live));
                if let Some(trial) = instance.trial().filter(|_| tried) {
                    revision.engines.trials.keep(trial);
                }
                Started { instance, phases }
            };
            // Another instance has shown that it starts: this one costs next to nothing.
            let shared = self.linked().upgrade();
            if let Some(linked) = shared {
                return Ok(started(linked, None, vec![("share", begun.elapsed())]));
            }
            let (contract, loaded) = revision.load().await?;
            let at_load = Instant::now();
            let linked = Arc::new(revision.link(contract, loaded)?);
            let at_link = Instant::now();
            let live = revision.try_out(&linked).await?;
            *self.linked() = Arc::downgrade(&linked);
            let phases =
                vec![("load", at_load - begun), ("link", at_link - at_load), ("instantiate", at_link.elapsed())];
            Ok(started(linked, Some(live), phases))
        })
    }
}

impl Revision {
    /// Returns the component from memory, or maps its file.
    async fn load(&self) -> Result<(Contract, Arc<Loaded>), RuntimeError> {
        let (engines, code) = (&self.engines, self.unit.code);
        if let Some(loaded) = engines.cache.get(&code) {
            return Ok((engines.worlds.contract(&loaded.component), loaded));
        }
        let found = engines.compiler.find(&code)?;
        let (contract, path) =
            found.ok_or_else(|| RuntimeError::new(Reason::StartFailed, "the code is not installed"))?;
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        let worlds = Arc::clone(&engines.worlds);
        let map = move || load(&worlds.of(contract)?.engine, &path);
        // Mapping a small file takes 0.1 ms; handing it to another thread and back takes as long again.
        let component = if bytes <= LOAD_HERE_BYTES_MAX {
            map()
        } else {
            let loading = tokio::task::spawn_blocking(map).await;
            loading.map_err(|e| start_failed(internal("load compiled code", &e)))?
        };
        Ok((contract, engines.cache.put(code, component.map_err(|e| unloaded(&e))?)?))
    }

    fn link(&self, contract: Contract, loaded: Arc<Loaded>) -> Result<Linked, RuntimeError> {
        let pre = self.engines.worlds.link(contract, &loaded.component);
        let pre = pre.map_err(|e| start_failed(internal("link the component", &format!("{e:#}"))))?;
        let slots = slots_of(&loaded.component, share::function_max(&self.engines.config));
        let slots = slots.map_err(|detail| RuntimeError::new(Reason::StartFailed, detail))?;
        Ok(Linked { pre, loaded, slots })
    }

    /// Instantiates once, so that what can never start is known.
    async fn try_out(self: &Arc<Self>, linked: &Arc<Linked>) -> Result<Live, RuntimeError> {
        let (log, meter) = self.attend(CallId::fresh());
        let (revision, linked, made) = (Arc::clone(self), Arc::clone(linked), Arc::new(OnceLock::new()));
        let (metered, out) = (Arc::clone(&meter), Arc::clone(&made));
        let trial = async move {
            let mut live = revision.live(&log, &metered, &linked).await?;
            live.store.data_mut().rest();
            out.set(Mutex::new(Some(live))).ok();
            Ok(())
        };
        let mut guest = Guest::Here(Box::pin(trial));
        poll_fn(|cx| guest.poll(&meter, &self.ramp, cx)).await.map_err(start_failed)?;
        let live = made.get().and_then(|live| live.lock().ok()?.take());
        live.ok_or_else(|| start_failed(failure::cut()))
    }

    /// Returns what goes with one call: where its output goes, and what counts its CPU time.
    pub(crate) fn attend(&self, call: CallId) -> (Arc<CallLog>, Arc<Meter>) {
        let meter = Meter::new(Arc::clone(&self.engines.ticks), self.ticks_max);
        (Arc::new(self.unit.logs.call(call)), Arc::new(meter))
    }

    /// Returns what counts the CPU time of calls that share a store.
    pub(crate) fn shared_meter(&self) -> Meter {
        Meter::shared(Arc::clone(&self.engines.ticks), self.ticks_max)
    }

    /// Returns when a call that begins now has to answer.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.unit.spec.timeout.run.duration()
    }

    /// Makes a store, as the present call's.
    ///
    /// # Errors
    /// `queue_full` when there is no slot for it.
    pub(crate) fn store(
        &self,
        log: &Arc<CallLog>,
        meter: &Arc<Meter>,
        linked: &Linked,
    ) -> Result<Store<State>, RuntimeError> {
        let Self { engines, unit, env, granted, outlet, slots, .. } = self;
        let slot = match slots.take(linked.slots) {
            Err(_) if engines.trials.give_up() => slots.take(linked.slots)?,
            taken => taken?,
        };
        let grants = Grants {
            buckets: engines.buckets.clone(),
            namespace: unit.function.namespace.clone(),
            granted: Arc::clone(granted),
            patience: engines.config.state_patience.duration(),
            until: self.until(),
        };
        let limiter = Limiter::new(unit.spec.limits.memory.0, &engines.memory);
        let hooks = Hooks::new(outlet, unit.spec.reuse == Reuse::Concurrent, log);
        let state =
            State::new(env, (log, hooks), Arc::clone(meter), grants, limiter, engines.config.resources_max, slot);
        Ok(Store::new(linked.loaded.component.engine(), state))
    }

    /// Makes a store with the component in it, as the present call's.
    ///
    /// # Errors
    /// What keeps the component from starting; `queue_full` when there is no slot for it.
    pub(crate) async fn live(
        &self,
        log: &Arc<CallLog>,
        meter: &Arc<Meter>,
        linked: &Linked,
    ) -> Result<Live, RuntimeError> {
        let store = self.store(log, meter, linked)?;
        Live::new(store, &linked.pre, self.engines.config.reuse_calls_max.max(1), log, &self.unit.spec.limits).await
    }
}

/// Where the kernel has no mapping or descriptor left, idle instances hold them.
fn unloaded(error: &wasmtime::Error) -> RuntimeError {
    let errno = error.root_cause().downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    match errno.map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOMEM) => {
            RuntimeError::crowded("the kernel has no mapping left for the code (vm.max_map_count)")
        }
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
            RuntimeError::crowded("there is no descriptor left for the code (ulimit -n)")
        }
        _ => start_failed(internal("load compiled code", &format!("{error:#}"))),
    }
}

fn start_failed(error: RuntimeError) -> RuntimeError {
    match error.reason {
        Reason::DiskFull | Reason::QueueFull => error,
        _ => RuntimeError::new(Reason::StartFailed, error.detail),
    }
}
