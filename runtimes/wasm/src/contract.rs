//! The two contracts that a component may keep, and the world that each runs in.
//!
//! They have an engine each: support for concurrent calls within a store makes
//! every call dearer, and only WASI 0.3 needs it. The second engine is made when
//! the first component asks for it.

mod kind;

use std::sync::{Arc, OnceLock};

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use crate::engine::{self, Clock};
use crate::state::State;
use crate::{Config, host};

pub(crate) use kind::Contract;

/// An engine with what its components are linked with.
pub(crate) struct World {
    pub engine: Engine,
    linker: Linker<State>,
}

/// Both worlds.
pub(crate) struct Worlds {
    config: Config,
    clock: Arc<Clock>,
    first: World,
    second: OnceLock<World>,
}

impl World {
    fn new(contract: Contract, config: &Config) -> wasmtime::Result<Self> {
        let engine = engine::running(contract, config)?;
        let linker = host::linker(contract, &engine)?;
        Ok(Self { engine, linker })
    }
}

impl Worlds {
    /// Makes the world of WASI 0.2.
    pub(crate) fn new(config: &Config, clock: Arc<Clock>) -> wasmtime::Result<Self> {
        let first = World::new(Contract::Handler02, config)?;
        clock.drives(&first.engine);
        Ok(Self { config: config.clone(), clock, first, second: OnceLock::new() })
    }

    /// Returns the world of a contract; takes milliseconds the first time it is one of WASI 0.3.
    pub(crate) fn of(&self, contract: Contract) -> wasmtime::Result<&World> {
        if contract == Contract::Handler02 {
            return Ok(&self.first);
        }
        if let Some(world) = self.second.get() {
            return Ok(world);
        }
        let made = World::new(contract, &self.config)?;
        // Of two that were made at once, one goes away unused.
        Ok(self.second.get_or_init(|| {
            self.clock.drives(&made.engine);
            made
        }))
    }

    /// Returns which contract a component was compiled for.
    pub(crate) fn contract(&self, component: &Component) -> Contract {
        if Engine::same(component.engine(), &self.first.engine) { Contract::Handler02 } else { Contract::Handler03 }
    }

    /// Links a component.
    pub(crate) fn link(&self, contract: Contract, component: &Component) -> wasmtime::Result<Pre> {
        Pre::new(contract, self.of(contract)?.linker.instantiate_pre(component)?)
    }
}

/// A linked component.
#[derive(Clone)]
pub(crate) enum Pre {
    Handler02(ProxyPre<State>),
    Handler03(ServicePre<State>),
}

impl Pre {
    /// Takes a linked component by its contract.
    pub(crate) fn new(contract: Contract, linked: InstancePre<State>) -> wasmtime::Result<Self> {
        Ok(match contract {
            Contract::Handler02 => Self::Handler02(ProxyPre::new(linked)?),
            Contract::Handler03 => Self::Handler03(ServicePre::new(linked)?),
        })
    }

    pub(crate) async fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Exports> {
        Ok(match self {
            Self::Handler02(pre) => Exports::Handler02(pre.instantiate_async(store).await?),
            Self::Handler03(pre) => Exports::Handler03(pre.instantiate_async(store).await?),
        })
    }
}

/// An instantiated component.
pub(crate) enum Exports {
    Handler02(Proxy),
    Handler03(Service),
}
