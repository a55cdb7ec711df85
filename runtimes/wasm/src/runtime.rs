//! The runtime: what all functions share, and a function's revision.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use faas_model::manifest::RuntimeKind;
use faas_model::{CallId, Digest, Name, Reason};
use faas_runtime::egress::{Egress, Outlet};
use faas_runtime::logs::CallLog;
use faas_runtime::{Code, Prepared, Runtime, RuntimeError, Started, Unit};
use faas_store::bucket::Buckets;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use wasmtime::component::Linker;
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::call::{Guest, try_out};
use crate::compile::{Compiler, internal};
use crate::host::keyvalue::Grants;
use crate::host::outgoing::Hooks;
use crate::instance::{Linked, WasmInstance};
use crate::lane::Lane;
use crate::loaded::{Cache, Loaded, load};
use crate::meter::Meter;
use crate::share::{Budget, FunctionSlots, Slots, slots_of};
use crate::state::{Limiter, State};
use crate::{CompileCommand, Config, engine, host, share};

/// Runs Wasm components.
pub struct WasmRuntime {
    engines: Arc<Engines>,
}

/// What all functions share.
pub(crate) struct Engines {
    pub config: Config,
    pub engine: Engine,
    pub clock: Arc<AtomicU64>,
    pub lane: Arc<Lane>,
    pub buckets: Buckets,
    egress: Egress,
    /// The memory of all guests.
    memory: Arc<Budget>,
    slots: Slots,
    linker: Linker<State>,
    compiler: Compiler,
    cache: Cache,
}

/// A revision that can be started.
pub(crate) struct Revision {
    pub engines: Arc<Engines>,
    pub unit: Unit,
    pub env: Arc<[(String, String)]>,
    pub granted: Arc<BTreeSet<Name>>,
    pub ticks_max: u32,
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
        let engine = engine::running(&config).map_err(|e| internal("make the Wasm engine", &format!("{e:#}")))?;
        let compatibility = engine::compatibility(&engine);
        let compiler = Compiler::open(compiled_dir, compile_command, compatibility, &config)
            .map_err(|e| internal("open the folder of compiled code", &e))?;
        let clock = engine::start_clock(&engine).map_err(|e| internal("start the engine's clock", &e))?;
        let lane = Lane::new(&config).map_err(|e| internal("start the lane", &e))?;
        let linker = host::linker(&engine).map_err(|e| internal("make the linker", &e))?;
        let lane = Arc::new(lane);
        let memory = Arc::new(Budget::new(share::memory_total(&config)));
        let (slots, cache) = (Slots::new(&config), Cache::new());
        let engines = Engines { config, engine, clock, lane, buckets, egress, memory, slots, linker, compiler, cache };
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
        Box::pin(self.engines.compiler.ensure(&self.engines.engine, code))
    }

    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.engines.cache.forget(code);
            self.engines.compiler.forget(code).await;
        })
    }

    fn prepare(&self, unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        let env = unit.spec.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let granted = Arc::new(unit.spec.state.clone());
        let ticks = u128::from(unit.spec.limits.cpu.0).div_ceil(engine::TICK.as_millis());
        let ticks_max = u32::try_from(ticks).unwrap_or(u32::MAX);
        let engines = Arc::clone(&self.engines);
        let slots = engines.slots.of(&unit.function);
        let outlet = Arc::new(engines.egress.outlet(&unit.function, &unit.spec.egress));
        Ok(Arc::new(Ready(Arc::new(Revision { engines, unit, env, granted, ticks_max, outlet, slots }))))
    }
}

/// The store of a call, its log and its meter.
type Made = (Store<State>, Arc<CallLog>, Arc<Meter>);

/// The form of a revision that the function service holds.
struct Ready(Arc<Revision>);

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ready").field(&self.0.unit.function).field(&self.0.unit.revision).finish()
    }
}

impl Prepared for Ready {
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let loaded = self.0.load().await?;
            let at_load = Instant::now();
            let linked = self.0.link(loaded)?;
            let at_link = Instant::now();
            self.0.try_out(&linked).await?;
            let phases =
                vec![("load", at_load - begun), ("link", at_link - at_load), ("instantiate", at_link.elapsed())];
            Ok(Started { instance: Arc::new(WasmInstance::new(Arc::clone(&self.0), linked)), phases })
        })
    }
}

impl Revision {
    /// Returns the component from memory, or maps its file; compiles it where another process published it.
    async fn load(&self) -> Result<Arc<Loaded>, RuntimeError> {
        let engines = &self.engines;
        let (code, spare) = (&self.unit.code, engines.config.spare_bytes_max.0);
        if let Some(loaded) = engines.cache.get(&code.digest, spare) {
            return Ok(loaded);
        }
        engines.compiler.ensure(&engines.engine, code).await.map_err(start_failed)?;
        let (engine, path) = (engines.engine.clone(), engines.compiler.path(&code.digest));
        let component = tokio::task::spawn_blocking(move || load(&engine, &path)).await;
        let component = component.map_err(|e| start_failed(internal("load compiled code", &e)))?;
        let component = component.map_err(|e| start_failed(internal("load compiled code", &format!("{e:#}"))))?;
        Ok(engines.cache.put(code.digest, component, spare))
    }

    fn link(&self, loaded: Arc<Loaded>) -> Result<Linked, RuntimeError> {
        let linked = self.engines.linker.instantiate_pre(&loaded.component);
        let proxy = linked.and_then(ProxyPre::new);
        let proxy = proxy.map_err(|e| start_failed(internal("link the component", &format!("{e:#}"))))?;
        let slots = slots_of(&loaded.component, share::function_max(&self.engines.config));
        let slots = slots.map_err(|detail| RuntimeError::new(Reason::StartFailed, detail))?;
        Ok(Linked { proxy, loaded, slots })
    }

    /// Instantiates once and throws the instance away.
    async fn try_out(&self, linked: &Linked) -> Result<(), RuntimeError> {
        let (store, log, meter) = self.store(CallId::fresh(), linked)?;
        let trial = try_out(store, linked.proxy.clone(), log, self.unit.spec.limits.clone());
        let mut guest = Guest::Here(Box::pin(trial));
        poll_fn(|cx| guest.poll(&meter, &self.engines.lane, cx)).await.map_err(start_failed)
    }

    /// Makes the store of one call.
    ///
    /// # Errors
    /// `queue_full` when there is no slot for it.
    pub(crate) fn store(&self, call: CallId, linked: &Linked) -> Result<Made, RuntimeError> {
        let Self { engines, unit, env, granted, ticks_max, outlet, slots } = self;
        let slot = slots.take(linked.slots)?;
        let log = Arc::new(unit.logs.call(call));
        let meter = Arc::new(Meter::new(Arc::clone(&engines.clock), *ticks_max));
        let grants = Grants {
            buckets: engines.buckets.clone(),
            namespace: unit.function.namespace.clone(),
            granted: Arc::clone(granted),
            patience: engines.config.state_patience.duration(),
            until: Instant::now() + unit.spec.timeout.run.duration(),
        };
        let limiter = Limiter::new(unit.spec.limits.memory.0, &engines.memory);
        let hooks = Hooks::new(outlet, &log);
        let state =
            State::new(env, (&log, hooks), Arc::clone(&meter), grants, limiter, engines.config.resources_max, slot);
        Ok((Store::new(&engines.engine, state), log, meter))
    }
}

fn start_failed(error: RuntimeError) -> RuntimeError {
    match error.reason {
        Reason::DiskFull | Reason::QueueFull => error,
        _ => RuntimeError::new(Reason::StartFailed, error.detail),
    }
}
