//! Requests around the moment when an idle instance is unloaded.
//!
//! Every function gets bursts, one `idle` after the other, whose requests are
//! spread over the milliseconds around that moment: some find the instance,
//! some its end, some nothing. None may fail.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::http::{Answer, Client};
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long an instance is kept without calls, and so the time between two bursts.
const IDLE: Duration = Duration::from_millis(100);
/// Requests of a burst.
const BURST: u64 = 8;
/// The requests of a burst come this much before or after the end of the idle time at most.
const EDGE_US: u64 = 6_000;

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Starts after a scale to zero at least.
    #[arg(long, default_value_t = 200)]
    cycles: u64,
    /// Requests at least.
    #[arg(long, default_value_t = 20_000)]
    requests: u64,
    /// Stateless functions; one with state comes beside them.
    #[arg(long, default_value_t = 4)]
    functions: u64,
    /// Seed of the arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Default)]
struct Tally {
    answered: u64,
    cold: u64,
    failed: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Connections stay open: a request that meets the close of an idle one would be the client's fault.
    let env = [("FAAS_FRONT_KEEP_ALIVE", "1h"), ("FAAS_FRONT_HEAD_TIMEOUT", "1h")];
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let platform = Platform::start(folder.path(), Options { env, ..Options::default() }).await?;
    let scale = format!("scale = {{ idle = \"{}ms\" }}", IDLE.as_millis());
    for n in 0..arguments.functions {
        let manifest = folder.path().join(format!("edge-{n}"));
        samples::manifest(&manifest, &format!("edge-{n}"), "hello", &scale)?;
        platform.deploy(&manifest).await?;
    }
    let manifest = folder.path().join("book");
    samples::manifest(&manifest, "book", "orders", &format!("{scale}\nstate = [\"orders\", \"order-events\"]"))?;
    platform.deploy(&manifest).await?;

    let begun = Instant::now();
    let share = |of: u64| of.div_ceil(arguments.functions + 1);
    let client = Client::default();
    let mut drivers = JoinSet::new();
    for n in 0..=arguments.functions {
        let name = if n == arguments.functions { "book".to_owned() } else { format!("edge-{n}") };
        let url = Arc::new(platform.url(&format!("/function/{name}")));
        let (requests, cycles) = (share(arguments.requests), share(arguments.cycles));
        drivers.spawn(drive(client.clone(), url, requests, cycles, arguments.seed + n, name == "book"));
    }
    let mut total = Tally::default();
    while let Some(tally) = drivers.join_next().await {
        let tally = tally?;
        total.answered += tally.answered;
        total.cold += tally.cold;
        total.failed.extend(tally.failed);
    }
    let starts = starts(&platform).await?;
    println!(
        "scale to zero: {} requests answered, {} failed; {} saw a cold start, {starts} starts in all; {:.0} s",
        total.answered,
        total.failed.len(),
        total.cold,
        begun.elapsed().as_secs_f64()
    );
    total.failed.iter().take(10).for_each(|failure| println!("  {failure}"));
    ensure!(total.failed.is_empty(), "{} requests failed", total.failed.len());
    ensure!(starts >= arguments.cycles, "{starts} starts are too few to be {} cycles", arguments.cycles);
    let totals = client.get(&platform.url("/function/book/totals")).await?.json();
    let booked = share(arguments.requests).max(1);
    ensure!(
        totals.get("count").and_then(serde_json::Value::as_u64) >= Some(booked),
        "{booked} orders or more were answered, there are {totals}"
    );
    Ok(())
}

/// Sends bursts until there were enough requests and cold starts, or far too many requests.
///
/// A burst is planned when the one before has been answered, from which on the
/// instance is idle; its requests then come at their times, answered or not.
async fn drive(client: Client, url: Arc<String>, requests: u64, cycles: u64, seed: u64, books: bool) -> Tally {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut tally, mut sent, mut cycled) = (Tally::default(), 0, 0);
    while (sent < requests || cycled < cycles) && sent < requests.saturating_mul(20) {
        let (edge, cold) = (Instant::now() + IDLE, tally.cold);
        let mut running = JoinSet::new();
        for _ in 0..BURST {
            let us = random.random_range(0..=2 * EDGE_US);
            let due = edge - Duration::from_micros(EDGE_US) + Duration::from_micros(us);
            running.spawn(one(client.clone(), url.clone(), due, books.then(|| format!("o-{seed}-{sent}"))));
            sent += 1;
        }
        while let Some(done) = running.join_next().await {
            tally.count(done);
        }
        cycled += u64::from(tally.cold > cold);
    }
    tally
}

async fn one(client: Client, url: Arc<String>, due: Instant, order: Option<String>) -> Result<Answer> {
    tokio::time::sleep_until(due).await;
    match order {
        None => client.get(&url).await,
        Some(id) => {
            let body =
                format!(r#"{{"id":"{id}","customer":"ada","items":[{{"sku":"tea","quantity":1,"price_cents":100}}]}}"#);
            client.send(Method::POST, &format!("{url}/orders"), &[("content-type", "application/json")], body).await
        }
    }
}

impl Tally {
    fn count(&mut self, done: Result<Result<Answer>, tokio::task::JoinError>) {
        match done {
            Ok(Ok(answer)) if answer.status.is_success() => {
                self.answered += 1;
                let timing = answer.header("server-timing").to_owned();
                let known = |phase: &str| phase.trim().starts_with("queue;") || phase.trim().starts_with("run;");
                self.cold += u64::from(timing.split(',').any(|phase| !known(phase)));
            }
            Ok(Ok(answer)) => self.failed.push(format!("{}: {}", answer.status, answer.text())),
            Ok(Err(error)) => self.failed.push(format!("{error:#}")),
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

async fn starts(platform: &Platform) -> Result<u64> {
    let metrics = crate::metrics(platform).await?;
    let lines = metrics.lines().filter(|line| line.starts_with("faas_cold_starts_total{"));
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Some(counts.sum()).filter(|sum| *sum > 0).context("no cold start was counted")
}
