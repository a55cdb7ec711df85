//! The compiling child as a program of its own, for tests of this crate.

fn main() -> std::process::ExitCode {
    faas_runtime_wasm::compile_child()
}
