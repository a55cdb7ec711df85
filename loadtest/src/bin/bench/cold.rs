//! Cold starts from stored code: the component in the repository and its
//! compiled file on disk (in the page cache), nothing in memory.

use std::sync::Arc;

use anyhow::{Result, ensure};
use faas_loadtest::cpu;
use faas_loadtest::load::Outcome;
use faas_loadtest::platform::{Options, Platform};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::fleet::{self, Codes, Until};

/// How many functions, and how often.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Functions, each with code of its own.
    #[arg(long, default_value_t = 1000)]
    functions: usize,
    /// Rounds; the platform is started anew for each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seed of the order in which they are called.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// More flags for `faas up`.
    #[arg(long, allow_hyphen_values = true)]
    flag: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let (folder, n) = (tempfile::tempdir()?, arguments.functions);
    let options = Options { flags: arguments.flag.clone(), ..Options::default() };
    let mut platform = Platform::start(folder.path(), options.clone()).await?;
    // The first one is called before the others, so that the path itself is warm.
    fleet::deploy(&platform, n, n + 1, &Codes::Same, "").await?;
    let codes = Codes::distinct(&platform, false)?;
    let rate = fleet::deploy(&platform, 0, n, &codes, "").await?;
    println!("{n} functions of distinct code, {rate:.0} deploys/s (the compiled file given)");
    let targets = fleet::targets(0, n + 1);
    let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
    for round in 0..arguments.rounds {
        platform = fleet::restart(platform, options.clone()).await?;
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut random);
        let order: Arc<[usize]> = order.into();
        let (pid, authority) = (platform.ready().pid, platform.ready().functions.clone());
        fleet::call(&authority, &targets, &vec![n; 100].into(), 1, Until::Once).await?;
        println!("round {}", round + 1);
        let resident = cpu::resident_bytes(pid)?;
        pass("cold", &authority, &targets, &order, pid).await?;
        let grown = (cpu::resident_bytes(pid)?.saturating_sub(resident)) as f64 / 1024.0 / n as f64;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count();
        pass("warm", &authority, &targets, &order, pid).await?;
        println!("  then {grown:.0} KiB RSS a live function, {maps} mappings, {} descriptors", cpu::descriptors(pid)?);
    }
    Ok(())
}

async fn pass(name: &str, authority: &str, targets: &Arc<[String]>, order: &Arc<[usize]>, pid: u32) -> Result<()> {
    let before = cpu::time_of(pid)?;
    let outcome: Outcome = fleet::call(authority, targets, order, 1, Until::Once).await?;
    let used = cpu::time_of(pid)?.saturating_sub(before).as_secs_f64() / order.len() as f64;
    let at = |share| outcome.quantile_us(share);
    ensure!(outcome.bad == 0, "{} of {} calls failed", outcome.bad, order.len());
    println!(
        "  {name}: p50 {} us, p90 {} us, p99 {} us, worst {} us; {:.0} us CPU each, {:.0} per CPU-second",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        used * 1e6,
        1.0 / used
    );
    Ok(())
}
