//! `faas-load`: sends what a scenario says when it says so, and tells what came back.
//!
//! It reports; it fails only when a run cannot be made or `--strict` asks for more.

#![allow(clippy::print_stdout, reason = "the report on stdout is what this program is for")]

mod compare;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use faas_loadtest::outcome::Outcome;
use faas_loadtest::runner;
use faas_loadtest::scenario::{Scenario, time};
use faas_loadtest::target::{Choice, Target};

/// Open-loop load from scenario files.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a scenario and prints what came out.
    Run(RunArguments),
    /// Prints ratios: of result files, or of targets that run one scenario in turns.
    #[command(after_help = "Examples:\n  faas-load compare before.json after.json\n  \
        faas-load compare --rounds 3 hello-steady --target ours=faas --target 'reuse=wasmtime:/opt/wasmtime --max-instance-reuse-count 128'")]
    Compare(compare::CompareArguments),
}

/// What to run.
#[derive(Debug, clap::Args)]
struct RunArguments {
    /// A scenario: a file, or the name of one in `loadtest/scenarios`.
    scenario: PathBuf,
    /// Write the result here as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// `faas[:PROGRAM] [FLAGS]`, `wasmtime:PROGRAM [FLAGS]` or `http://HOST:PORT/PREFIX`; default as the scenario says.
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// Exit with 1 when a request failed or the generator flagged itself.
    #[arg(long)]
    strict: bool,
}

/// Values over those of the scenario.
#[derive(Debug, Clone, clap::Args)]
struct Changes {
    /// Seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Functions of an azure2019 trace.
    #[arg(long)]
    functions: Option<usize>,
    /// Length of an azure2019 trace, such as `60s`.
    #[arg(long)]
    seconds: Option<String>,
    /// How much faster the time of an azure2019 trace runs.
    #[arg(long)]
    speedup: Option<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // One thread: its share of one core is what the generator can do, and is reported.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Run(arguments) => run(&arguments).await,
            Command::Compare(arguments) => compare::run(&arguments).await,
        }
    })
}

async fn run(arguments: &RunArguments) -> Result<()> {
    let scenario = scenario(&arguments.scenario, &arguments.changes)?;
    let choice = arguments.target.as_deref().map_or_else(|| Ok(Choice::of(&scenario)), Choice::parse)?;
    let target = Target::start(&choice, &scenario).await?;
    let outcome = runner::run(&scenario, &choice, &target).await?;
    if let Some(out) = &arguments.out {
        outcome.write(out)?;
    }
    print!("{}", report::text(&outcome));
    if arguments.strict {
        strictly(&outcome)?;
    }
    Ok(())
}

fn strictly(outcome: &Outcome) -> Result<()> {
    if outcome.failed() > 0 {
        bail!("{} of {} requests failed", outcome.failed(), outcome.total.requests);
    }
    if let Some(flag) = outcome.generator.flags.first() {
        bail!("the result is doubtful: {flag}");
    }
    Ok(())
}

fn scenario(path: &Path, changes: &Changes) -> Result<Scenario> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(path).with_extension("toml");
    let by_name = path.components().count() == 1 && !path.exists();
    let mut scenario = Scenario::read(if by_name { &kept } else { path })?;
    scenario.seed = changes.seed.unwrap_or(scenario.seed);
    let asked = changes.functions.is_some() || changes.seconds.is_some() || changes.speedup.is_some();
    match &mut scenario.azure2019 {
        Some(shape) => {
            shape.functions = changes.functions.unwrap_or(shape.functions);
            shape.speedup = changes.speedup.unwrap_or(shape.speedup);
            if let Some(seconds) = &changes.seconds {
                shape.seconds =
                    time::parse(seconds).with_context(|| format!("--seconds {seconds:?} is not like 60s"))?;
            }
            shape.check()?;
        }
        None if asked => {
            bail!("--functions, --seconds and --speedup change an [azure2019] scenario; {} is none", scenario.name)
        }
        None => {}
    }
    Ok(scenario)
}
