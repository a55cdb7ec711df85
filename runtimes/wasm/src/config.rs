//! The settings of the Wasm runtime, as plain data.

use std::path::PathBuf;

use faas_model::units::{ByteSize, Millis};
use serde::{Deserialize, Serialize};

/// Bounds of the Wasm runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Calls that run at once at most, over all functions, 1 to 8,000, and the stores that functions
    /// with `reuse` keep; each reserves
    /// address space for its memory. Above 8,000 the kernel's bound on mappings ends it first.
    pub calls_max: u32,
    /// Calls of one function that run at once at most; 0 is three quarters of `calls_max`.
    /// A component with several memories takes a place for each.
    pub calls_per_function_max: u32,
    /// Memory of all guests together; 0 is half of the machine's.
    pub memory_total_max: ByteSize,
    /// Threads for calls that compute longer than 10 ms, 1 to 256; 0 is one per core.
    /// They yield to every other thread of the process.
    pub lane_threads: u32,
    /// Components compiled at once at most, 1 to 64.
    pub compile_jobs_max: u32,
    /// CPU time of one compilation, in whole seconds.
    pub compile_cpu: Millis,
    /// Time of one compilation by the clock.
    pub compile_wall: Millis,
    /// Memory of one compilation.
    pub compile_memory: ByteSize,
    /// Largest component, as uploaded.
    pub code_bytes_max: ByteSize,
    /// Largest compiled component.
    pub compiled_bytes_max: ByteSize,
    /// Compiled components kept loaded though no instance uses them; the one unused longest goes first.
    pub spare_bytes_max: ByteSize,
    /// Compiled components loaded at once at most; 0 is what `vm.max_map_count` and `ulimit -n` leave
    /// room for. Beyond it idle instances stop, the one unused longest first.
    pub loaded_max: u32,
    /// Bytes of all compiled components that are loaded; 0 is a quarter of the machine's memory.
    /// Beyond it idle instances stop, the one unused longest first.
    pub loaded_bytes_max: ByteSize,
    /// Host resources (bodies, header lists, handles) of one call at most, 32 to 100,000.
    pub resources_max: u32,
    /// Calls that a store of a function with `reuse` takes before a fresh one takes its place, at
    /// least 1: what a guest leaks is bounded by it.
    pub reuse_calls_max: u32,
    /// How long one state operation of a function may take.
    pub state_patience: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            calls_max: 1000,
            calls_per_function_max: 0,
            memory_total_max: ByteSize(0),
            lane_threads: 0,
            compile_jobs_max: 2,
            compile_cpu: Millis::seconds(60),
            compile_wall: Millis::seconds(180),
            compile_memory: ByteSize::mib(2048),
            code_bytes_max: ByteSize::mib(128),
            compiled_bytes_max: ByteSize::mib(512),
            spare_bytes_max: ByteSize::mib(64),
            loaded_max: 0,
            loaded_bytes_max: ByteSize(0),
            resources_max: 512,
            reuse_calls_max: 1000,
            state_patience: Millis::seconds(5),
        }
    }
}

/// The program whose `main` calls [`compile_child`](crate::compile_child).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileCommand {
    /// The program, usually this one.
    pub program: PathBuf,
    /// Its arguments. One more is added, the limits, which `compile_child` reads.
    pub args: Vec<String>,
}
