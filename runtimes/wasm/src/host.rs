//! What guests may import beside WASI and wasi:http, and the linker of it all.

mod config;
pub(crate) mod keyvalue;
pub(crate) mod outgoing;

use wasmtime::Engine;
use wasmtime::component::{HasData, Linker};

use crate::contract::Contract;
use crate::state::State;

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "generated from the WIT files")]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "faas:host/offers",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": super::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": super::keyvalue::Cas,
        },
        require_store_data_send: true,
    });
}

/// Gives the generated code the state of the store.
struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut State;
}

/// Returns the linker that every component of a contract is linked with. One of WASI 0.3 may
/// import interfaces of 0.2 as well: what Rust's standard library is built on, and the state.
///
/// # Errors
/// Never in practice: only a name defined twice is an error.
pub(crate) fn linker(contract: Contract, engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if contract == Contract::Handler03 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    bindings::Offers::add_to_linker::<State, Host>(&mut linker, |state| state)?;
    Ok(linker)
}
