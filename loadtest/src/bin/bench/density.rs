//! What thousands of deployed functions cost, beside a platform that has one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use faas_loadtest::cpu;
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use http::Method;
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fleet::{self, Codes, Until};
use crate::measure::spread;

/// How many functions, and how long to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Functions; a power of ten.
    #[arg(long, default_value_t = 10_000)]
    functions: usize,
    /// Rounds of warm calls; each measures every spread once, interleaved.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Concurrent requests to one idle function.
    #[arg(long, default_value_t = 1000)]
    burst: usize,
    /// Instances of distinct code to be alive at once; 0 leaves the part out.
    #[arg(long, default_value_t = 10_000)]
    live: usize,
    /// Leaves everything but the live instances out.
    #[arg(long)]
    only_live: bool,
    /// Seed of the choice of functions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// More flags for `faas up`.
    #[arg(long, allow_hyphen_values = true)]
    flag: Vec<String>,
}

/// Instances stay alive while others are measured.
const KEPT: &str = "scale = { idle = \"1h\" }";

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let options = Options { flags: arguments.flag.clone(), ..Options::default() };
    if !arguments.only_live {
        idle(arguments, &options).await?;
    }
    if arguments.live > 0 {
        live(arguments, &options).await?;
    }
    Ok(())
}

/// Deployed functions that do nothing, then some that do.
async fn idle(arguments: &Arguments, options: &Options) -> Result<()> {
    let (one_folder, many_folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let one = Platform::start(one_folder.path(), options.clone()).await?;
    let many = Platform::start(many_folder.path(), options.clone()).await?;
    fleet::deploy(&one, 0, 1, &Codes::Same, KEPT).await?;
    let (mut from, mut to) = (0, 10);
    println!("deploys, one code under many names");
    while from < arguments.functions {
        let rate = fleet::deploy(&many, from, to, &Codes::Same, KEPT).await?;
        println!("  {from:>6} to {to:>6}: {rate:.0} deploys/s");
        (from, to) = (to, (to * 10).min(arguments.functions));
    }
    let one = fleet::restart(one, options.clone()).await?;
    let many = fleet::restart(many, options.clone()).await?;
    let (one_bytes, many_bytes) = (settled(&one).await?, settled(&many).await?);
    let each = many_bytes.saturating_sub(one_bytes) as f64 / 1024.0 / arguments.functions as f64;
    println!("restart: {} ms with 1, {} ms with all", one.start_time.as_millis(), many.start_time.as_millis());
    println!("idle: {} KiB with 1, {} KiB with all: {each:.2} KiB RSS each", one_bytes >> 10, many_bytes >> 10);
    println!("  /metrics is {} KiB", metrics_bytes(&many).await? >> 10);
    cold(&one, &many, arguments).await?;
    warm(&one, &many, arguments).await?;
    println!("  /metrics is {} KiB once all were called", metrics_bytes(&many).await? >> 10);
    burst(options, arguments).await
}

/// Returns the resident memory once it no longer changes by much.
async fn settled(platform: &Platform) -> Result<u64> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    cpu::resident_bytes(platform.ready().pid)
}

async fn metrics_bytes(platform: &Platform) -> Result<usize> {
    let authorization = format!("Bearer {}", platform.token()?);
    let url = platform.control("/metrics");
    Ok(Client::default().send(Method::GET, &url, &[("authorization", &authorization)], "").await?.body.len())
}

/// Every function's first call, one after the other, beside the first call of the only one.
async fn cold(one: &Platform, many: &Platform, arguments: &Arguments) -> Result<()> {
    let (only, all) = (fleet::targets(0, 1), fleet::targets(0, arguments.functions));
    let first = fleet::call(&one.ready().functions, &only, &vec![0].into(), 1, Until::Once).await?;
    let order: Arc<[usize]> = (0..arguments.functions).collect();
    let outcome = fleet::call(&many.ready().functions, &all, &order, 1, Until::Once).await?;
    ensure!(outcome.bad == 0, "{} first calls failed", outcome.bad);
    println!(
        "cold: the only one {} us; of all p50 {} us, p99 {} us (code in memory after the first)",
        first.quantile_us(0.5),
        outcome.quantile_us(0.5),
        outcome.quantile_us(0.99)
    );
    let bytes = settled(many).await?;
    println!("  then {} KiB RSS", bytes >> 10);
    Ok(())
}

/// Warm calls of more and more functions, beside those of the only one.
async fn warm(one: &Platform, many: &Platform, arguments: &Arguments) -> Result<()> {
    let mut spreads = vec![1];
    while spreads.last().is_some_and(|last| *last < arguments.functions) {
        spreads.push(spreads.last().map_or(10, |last| last * 10));
    }
    let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
    let order = |of: usize, random: &mut ChaCha8Rng| -> Arc<[usize]> {
        (0..100_000).map(|_| random.random_range(0..of)).collect()
    };
    let lines: Vec<(String, &Platform, usize)> = std::iter::once(("the only one".to_owned(), one, 1))
        .chain(spreads.iter().map(|of| (format!("random of {of}"), many, *of)))
        .collect();
    let mut samples = vec![Vec::new(); lines.len()];
    for _ in 0..arguments.rounds {
        for ((_, platform, of), samples) in lines.iter().zip(&mut samples) {
            let (targets, order, pid) = (fleet::targets(0, *of), order(*of, &mut random), platform.ready().pid);
            let before = cpu::time_of(pid)?;
            let until = Until::Time(Duration::from_secs(arguments.seconds));
            let outcome = fleet::call(&platform.ready().functions, &targets, &order, 1, until).await?;
            ensure!(outcome.bad == 0, "{} warm calls failed", outcome.bad);
            let used = cpu::time_of(pid)?.saturating_sub(before).as_secs_f64() * 1e6 / outcome.good as f64;
            samples.push((used, f64::from(outcome.quantile_us(0.5)), f64::from(outcome.quantile_us(0.99))));
        }
    }
    println!("warm, one connection, {} rounds of {} s, interleaved", arguments.rounds, arguments.seconds);
    let mut before = None;
    for ((name, ..), samples) in lines.iter().zip(&samples) {
        let (low, used, high) = spread(samples.iter().map(|s| s.0));
        let (p50, p99) = (spread(samples.iter().map(|s| s.1)).1, spread(samples.iter().map(|s| s.2)).1);
        let more = before.map_or(String::new(), |before| format!(", {:+.1} % CPU", (used / before - 1.0) * 100.0));
        println!("  {name:<18} {used:.1} us CPU ({low:.1}-{high:.1}), p50 {p50:.0} us, p99 {p99:.0} us{more}");
        before = Some(used);
    }
    Ok(())
}

/// Requests that all come at once to a function that has no instance, with the settings of a manifest that says nothing.
async fn burst(options: &Options, arguments: &Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let platform = Platform::start(folder.path(), options.clone()).await?;
    fleet::deploy(&platform, 0, 1, &Codes::Same, "").await?;
    let (targets, order) = (fleet::targets(0, 1), Arc::from(vec![0; arguments.burst]));
    let outcome = fleet::call(&platform.ready().functions, &targets, &order, arguments.burst, Until::Once).await?;
    println!(
        "burst of {} to an idle function: {} answered, {} refused; p50 {} ms, p99 {} ms, all after {} ms",
        arguments.burst,
        outcome.good,
        outcome.bad,
        outcome.quantile_us(0.5) / 1000,
        outcome.quantile_us(0.99) / 1000,
        outcome.elapsed.as_millis()
    );
    Ok(())
}

/// Instances of distinct code, all alive at once.
async fn live(arguments: &Arguments, options: &Options) -> Result<()> {
    let (folder, n) = (tempfile::tempdir()?, arguments.live);
    let platform = Platform::start(folder.path(), options.clone()).await?;
    fleet::deploy(&platform, n, n + 1, &Codes::Same, KEPT).await?;
    let codes = Codes::distinct(&platform, true)?;
    let rate = fleet::deploy(&platform, 0, n, &codes, KEPT).await?;
    println!("live instances of distinct code: {rate:.0} deploys/s (the compiled file given)");
    let platform = fleet::restart(platform, options.clone()).await?;
    println!("  restart {} ms", platform.start_time.as_millis());
    let (targets, pid) = (fleet::targets(0, n), platform.ready().pid);
    let order: Arc<[usize]> = (0..n).collect();
    for pass in ["first calls", "second calls"] {
        let before = cpu::time_of(pid)?;
        let outcome = fleet::call(&platform.ready().functions, &targets, &order, 4, Until::Once).await?;
        let used = cpu::time_of(pid)?.saturating_sub(before).as_secs_f64() * 1e6 / n as f64;
        println!("  {pass}: {} answered, {} refused, {used:.0} us CPU each", outcome.good, outcome.bad);
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count();
    let resident = cpu::resident_bytes(pid)?;
    println!(
        "  {maps} mappings, {} descriptors, {} MiB RSS ({:.0} KiB each)",
        cpu::descriptors(pid)?,
        resident >> 20,
        resident as f64 / 1024.0 / n as f64
    );
    let authorization = format!("Bearer {}", platform.token()?);
    let url = platform.control("/metrics");
    let text = Client::default().send(Method::GET, &url, &[("authorization", &authorization)], "").await?.text();
    for line in text.lines().filter(|l| l.starts_with("faas_wasm_components") || l.starts_with("faas_evicted")) {
        println!("  {line}");
    }
    Ok(())
}
