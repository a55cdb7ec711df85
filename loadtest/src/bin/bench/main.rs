//! `faas-bench`: what a request costs, beside bare hyper and `wasmtime serve`,
//! in one run. It reports; it never fails on a number.

#![allow(clippy::print_stdout, reason = "the report on stdout is what this program is for")]

mod bare;
mod cold;
mod density;
mod fleet;
mod measure;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// CPU per request and throughput, as ratios within one run.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves one fixed answer with hyper alone (started by the other commands).
    Bare {
        /// Bytes of the answer.
        #[arg(long)]
        body_bytes: usize,
        /// Worker threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// CPU per request of the samples, whole path.
    Http(HttpArguments),
    /// Gets through the key-value door beside bare hyper, puts beside the raw engine.
    State(HttpArguments),
    /// Cold starts from stored code, one after the other, over functions of distinct code.
    Cold(cold::Arguments),
    /// What thousands of deployed functions cost: deploys, restart, memory, warm requests, a burst, live instances.
    Density(density::Arguments),
}

/// How long and how often to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HttpArguments {
    /// Rounds; each measures every server once, interleaved.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Connections.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// The `wasmtime` command to compare with.
    #[arg(long)]
    wasmtime: Option<PathBuf>,
    /// Another build of `faas`, measured in the same rounds: what a change brought.
    #[arg(long)]
    other: Option<PathBuf>,
    /// Only these samples.
    #[arg(long = "sample")]
    samples: Vec<String>,
}

impl HttpArguments {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = |threads| tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    match arguments.command {
        Command::Bare { body_bytes, threads } => runtime(threads)?.block_on(bare::serve(body_bytes)),
        Command::Http(http) => runtime(2)?.block_on(measure::run(&http)),
        Command::State(http) => runtime(2)?.block_on(state::run(&http)),
        Command::Cold(cold) => runtime(2)?.block_on(cold::run(&cold)),
        Command::Density(density) => runtime(2)?.block_on(density::run(&density)),
    }
}
