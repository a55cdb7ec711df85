//! Everything at once, killed at random times: requests, messages, state and
//! deploys are under way at every kill. What was acknowledged must be there at
//! the next start, which takes at most three seconds and leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::broker::{Broker, free_port};
use faas_loadtest::platform::{Listen, Options, Platform};
use faas_loadtest::samples;

use crate::kills::{self, Journal, Tally};
use crate::traffic::{Caller, Traffic};
use crate::{failpoints, messages};

/// Longest start after a kill (D14).
const START_BOUND: Duration = Duration::from_secs(3);
/// Longest time from the start of a deploy to the kill: some deploys end before, some do not.
const PAUSE_MS_MAX: u64 = 2_000;
/// Callers, ten requests a second each.
const CALLERS: usize = 20;
/// Messages a second.
const MESSAGES: u64 = 100;
/// Open files more at the end than after the first start, connections of the suite included.
const DESCRIPTORS_MORE: usize = 20;

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many times the platform is killed.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Seed of the kill times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), free_port()?).await?;
    let options = Options {
        flags: vec!["--amqp-url".into(), broker.url()],
        listen: Listen::Ports(free_port()?),
        ..Options::default()
    };
    let mut platform = Platform::start(&folder.path().join("faas"), options).await?;
    platform.deploy(&samples::folder("orders")).await?;
    // Compiled once, so that the deploys of the rounds have a chance to end before the kill.
    platform.deploy(&samples::folder("hello")).await?;
    messages::wait_for_queue(&broker.url()).await?;
    broker.settle().await;
    let published = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn(messages::publish_until(broker.url(), MESSAGES, published.clone()));
    let caller = Caller {
        authority: platform.ready().functions.clone(),
        target: "/function/orders/totals".into(),
        gap: Duration::from_millis(100),
        fresh: false,
        forgiving: true,
    };
    let traffic = Traffic::start(vec![caller; CALLERS]);
    traffic.set_ending(true);
    let (mut tally, mut journal) = (Tally::default(), Journal::default());
    let files = descriptors(&platform)?;
    for round in 0..arguments.rounds {
        kills::one_round(&mut platform, round, (arguments.seed, PAUSE_MS_MAX), &mut journal, &mut tally).await?;
        platform = platform.start_again().await?;
        tally.starts_ms.push(platform.start_time.as_millis());
        kills::verify(&platform, &journal, &mut tally).await.with_context(|| format!("after kill {round}"))?;
    }
    let ends = traffic.end().await?;
    published.store(true, Ordering::SeqCst);
    let messages = publisher.await??;
    println!("{} kills; requests: {ends}", arguments.rounds);
    messages::settle(&platform, messages).await?;
    messages::nothing_left_over(&platform, &broker.url(), messages).await?;
    println!("messages: {messages} published, each with its one effect");
    failpoints::nothing_left_over(&platform, &["hello", "orders"]).await?;
    let more = descriptors(&platform)?.saturating_sub(files);
    println!("descriptors: {more} more than after the first start");
    ensure!(more <= DESCRIPTORS_MORE, "{more} descriptors more, over {DESCRIPTORS_MORE}");
    ensure!(ends.wrong == 0, "{} requests were answered wrongly", ends.wrong);
    tally.report(arguments.rounds, 0, START_BOUND)
}

fn descriptors(platform: &Platform) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", platform.ready().pid))?.count())
}
