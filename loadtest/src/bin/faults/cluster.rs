//! Two processes over a ring of three Cassandra nodes, with writes, messages, stateless requests and contended
//! keys under way while nodes, processes and the broker are killed and held still. What was acknowledged must be
//! there, messages take effect once, requests fail only as promised, and contended keys are linearizable.

mod book;
mod faults;
mod loads;
pub(crate) mod sides;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use faas_loadtest::broker::{Broker, free_port};
use faas_loadtest::cassandra::{Ring, keyspace};
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Listen, Options, Platform, binary};
use faas_loadtest::samples;
use tokio::time::Instant;

use self::book::Book;
use self::faults::House;
use self::loads::Shared;
use self::sides::{Side, Sides};
use crate::messages;

/// How long a state call waits for the store (`baas.store`).
const STATE_LIMIT: Duration = Duration::from_secs(5);
/// How much later a refusal may come.
const LIMIT_SLACK: Duration = Duration::from_secs(1);
/// Longest wait until a process serves what another deployed.
const DEPLOY_PATIENCE: Duration = Duration::from_secs(60);
/// The function that takes messages tries as long as a fault may last.
const ORDERS: &str = r#"
limits = { memory = "64MiB", request_bytes = "64KiB" }
state = ["orders", "order-events"]
retry = { attempts = 100, max = "5s" }
[[functions.orders.trigger.amqp]]
queue = "order.placed"
declare = true
prefetch = 32
"#;

/// Flags of the suite.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Acknowledged writes at least, half through a function.
    #[arg(long, default_value_t = 200_000)]
    writes: u64,
    /// Messages at least.
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// Stateless requests at least.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Faults, spread over the writes.
    #[arg(long, default_value_t = 20)]
    faults: usize,
    /// Keys that are contended for and whose histories are judged.
    #[arg(long, default_value_t = 30)]
    histories: usize,
    /// Messages a second.
    #[arg(long, default_value_t = 40)]
    message_rate: u64,
    /// Stateless requests a second.
    #[arg(long, default_value_t = 150)]
    request_rate: u64,
    /// Seed of the faults and of what clients choose.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let judged = run_in(folder.path(), arguments).await;
    if judged.is_err() {
        println!("logs and histories are kept in {}", folder.keep().display());
    }
    judged
}

async fn run_in(folder: &Path, arguments: Arguments) -> Result<()> {
    let begun = Instant::now();
    let ring = Arc::new(tokio::task::spawn_blocking(Ring::start).await??);
    let broker = Broker::start(&folder.join("broker"), free_port()?).await?;
    let env = ring.env(&keyspace());
    migrate(&env).await?;
    let one = start(&folder.join("one"), &broker, &env).await?;
    let two = start(&folder.join("two"), &broker, &env).await?;
    println!("{:>7.1} s  three nodes, a broker and two processes run", begun.elapsed().as_secs_f64());
    let authorization = format!("Bearer {}", one.token()?);
    let sides = Arc::new(Sides { sides: [Side::of(&one), Side::of(&two)], authorization });
    deploy(folder, &one, &two).await?;
    messages::wait_for_queue(&broker.url()).await?;
    broker.settle().await;
    let shared = Arc::new(Shared::new(arguments, sides));
    let mut loads = loads::start(&shared, broker.url());
    let mut house = House { ring, broker, platforms: [Some(one), Some(two)] };
    house.make_all(&shared).await?;
    shared.faults_over.store(true, Ordering::SeqCst);
    while let Some(load) = loads.join_next().await {
        load??;
    }
    let (writes, seconds) = (shared.writes.load(Ordering::SeqCst), shared.book.seconds());
    println!("{seconds:>7.1} s  loads are over: {writes} writes, {:.0} a second", writes as f64 / seconds);
    let mut broken = shared.book.judge(STATE_LIMIT + LIMIT_SLACK);
    let shared = Arc::into_inner(shared).context("every load has ended")?;
    broken.extend(verify::all(shared, &house, folder).await?);
    for (at, text) in broken.iter().enumerate() {
        println!("BROKEN {at}: {text}");
    }
    ensure!(broken.is_empty(), "{} promises were broken", broken.len());
    println!("nothing lost, nothing twice, nothing out of order; {:.0} s in all", begun.elapsed().as_secs_f64());
    Ok(())
}

impl Shared {
    fn new(arguments: Arguments, sides: Arc<Sides>) -> Self {
        Self {
            arguments,
            sides,
            book: Book::new(),
            faults_over: AtomicBool::new(false),
            writes_begun: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            published: AtomicU64::new(0),
            slot: 0.into(),
            recorder: faas_loadtest::history::Recorder::default(),
        }
    }
}

/// Makes keyspace and tables.
pub(crate) async fn migrate(env: &[(String, String)]) -> Result<()> {
    let mut command = tokio::process::Command::new(binary()?);
    command.args(["baas", "migrate"]).envs(env.iter().map(|(name, value)| (name, value)));
    let output = command.output().await?;
    ensure!(output.status.success(), "faas baas migrate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn start(data: &Path, broker: &Broker, env: &[(String, String)]) -> Result<Platform> {
    let options = Options {
        flags: vec!["--amqp-url".into(), broker.url()],
        env: env.to_vec(),
        listen: Listen::Ports(free_port()?),
        ..Options::default()
    };
    Platform::start(data, options).await
}

/// Deploys on one process and waits until the other serves the same.
async fn deploy(folder: &Path, one: &Platform, two: &Platform) -> Result<()> {
    let manifest = folder.join("orders");
    samples::manifest(&manifest, "orders", "orders", ORDERS)?;
    one.deploy(&manifest).await?;
    one.deploy(&samples::folder("hello")).await?;
    let (client, begun) = (Client::default(), Instant::now());
    for path in ["/function/hello", "/function/orders"] {
        while client.get(&two.url(path)).await?.status != 200 {
            if begun.elapsed() > DEPLOY_PATIENCE {
                bail!("the second process does not serve {path}: {}", two.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}
