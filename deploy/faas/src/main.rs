//! `faas`: every role of the platform and its command line in one binary.
//! Wiring only: it names every concrete type once, and is the only reader of
//! the environment and of configuration files.

mod cli;
mod client;
mod commands;
mod data_folder;
mod failure;
mod observe;
mod output;
mod reference;
mod server;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The compiler of untrusted code has no threads, no runtime and no command line to parse.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "__compile") {
        return faas_runtime_wasm::compile_child();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    #[cfg(feature = "failpoints")]
    if let Some(step) = std::env::var_os("FAILPOINTS") {
        faas_function_service::failpoints::arm(&step.to_string_lossy());
    }
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::note(&failure.to_string());
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
