//! Runs WebAssembly components that export `wasi:http/incoming-handler` 0.2 or
//! `wasi:http/handler` 0.3.
//!
//! **Never knows** Docker, routes, the pool or the HTTP listeners.
//!
//! Invariants:
//! - Every call has a store of its own, and nothing of one call is seen by another,
//!   unless the function asks for reuse; a store is never shared by two revisions.
//! - Code is compiled by a limited child process and loaded only from a folder
//!   that this program alone writes.
//! - The future of a call is the unit of cancellation: dropping it, or the body
//!   of its answer, ends the call and gives its slot back; a store whose call
//!   was cut is never entered again, save one that runs several calls at once.
//! - A call that computes for longer than 10 ms leaves the threads that serve
//!   others, and the next ones of its function begin elsewhere; its memory, CPU
//!   time, output and host resources are bounded.

mod call;
mod check;
mod compile;
mod config;
mod contract;
mod crew;
mod drive;
mod engine;
mod failure;
mod host;
mod instance;
mod lane;
mod loaded;
mod meter;
mod outgoing;
mod output;
mod reply;
mod runtime;
mod share;
mod state;
mod trial;

pub use compile::compile_child;
pub use config::{CompileCommand, Config};
pub use runtime::WasmRuntime;

/// Returns an engine with the settings that run guests of WASI 0.2, so that a bare host can be
/// measured beside the platform (`examples/bare.rs`). Nobody else needs one.
///
/// # Errors
/// When the address space for the pool of slots cannot be had.
pub fn engine(config: &Config) -> wasmtime::Result<wasmtime::Engine> {
    engine::running(contract::Contract::Handler02, config)
}
