//! One file per group of commands; each returns what to print or a [`Failure`].

mod baas;
mod build;
mod deploy;
mod functions;
mod invoke;
mod kv;
mod logs;
mod new;

use std::future::Future;

use crate::cli::{Baas, Command, Layers};
use crate::failure::{Exit, Failure, Outcome};
use crate::settings::Settings;
use crate::{output, reference, server};

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Up(up) => server::up(&up),
        Command::Config(config) if config.reference => output::line(&reference::config()),
        Command::Config(config) => print_config(&config.layers),
        Command::New(new) => new::run(&new),
        Command::Build(build) => build::run(&build.dir),
        Command::Deploy(deploy) => block_on(deploy::run(&deploy)),
        Command::Invoke(invoke) => block_on(invoke::run(&invoke)),
        Command::Ls(list) => block_on(functions::list(&list.remote)),
        Command::Describe(describe) => block_on(functions::describe(&describe)),
        Command::Versions(versions) => block_on(functions::versions(&versions)),
        Command::Rollback(rollback) => block_on(functions::rollback(&rollback)),
        Command::Promote(promote) => block_on(functions::promote(&promote)),
        Command::Rm(remove) => block_on(functions::remove(&remove)),
        Command::Logs(logs) => block_on(logs::run(&logs)),
        Command::Kv(kv) => block_on(kv::run(&kv)),
        Command::Baas(Baas::Migrate(layers)) => block_on(server::store::migrate(Settings::load(&layers)?)),
        Command::Baas(Baas::Export(transfer)) => block_on(server::transfer::export(&transfer)),
        Command::Baas(Baas::Import { transfer, existing }) => block_on(server::transfer::import(&transfer, existing)),
        Command::Baas(Baas::Status { url, connection }) => block_on(baas::status(&url, &connection)),
        Command::Version => output::line(concat!("faas ", env!("CARGO_PKG_VERSION"))),
        // `main` has taken the compiler's name before any other parsing.
        Command::Compile => Err(Failure::new(Exit::Usage, "`__compile` takes no options", "it is the server's own")),
        Command::Reference { what } => output::line(&reference::print(what)),
    }
}

fn print_config(layers: &Layers) -> Outcome {
    output::line(Settings::load(layers)?.to_toml().trim_end())
}

/// Runs a client command on this thread alone; an interrupt ends it as every Unix tool.
fn block_on(future: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| {
        Failure::new(Exit::Refused, format!("this process gets no event loop: {e}"), "check the limits of open files")
    })?;
    let outcome = runtime.block_on(Box::pin(future));
    // A read of stdin cannot be cancelled; nobody waits for it.
    runtime.shutdown_background();
    outcome
}
