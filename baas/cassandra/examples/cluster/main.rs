//! State on Cassandra beside the driver alone, in one run on one node: gets and puts of 1 KiB by the store in this
//! process and through `wasi:keyvalue` inside a deployed function (32 one after the other in a call, each timed by the
//! function itself), increments of one key, the memory of `faas up`, and what a call costs that touches no state.
//!
//! `cargo run --release --workspace --example cluster -- [ROUNDS] [SECONDS]`, after `cargo build --release --workspace
//! --bins`. Each round measures everything once, in slices that take turns; printed are the median and the range of
//! the rounds. The node runs with its whole JIT, as in production.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark prints, and ends where it fails"
)]

mod raw;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use faas_cassandra::{Cassandra, Config, migrate};
use faas_loadtest::http::Client;
use faas_loadtest::load::{Shot, closed_loop};
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::{cassandra, cpu, samples};
use faas_model::Name;
use faas_store::bucket::{BucketName, Buckets};
use faas_store::{Read, Require, WallClock};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::Instant;

use self::raw::Raw;

const KEYS: u64 = 8_192;
const VALUE: &[u8] = &[b'v'; 1_024];
const CLIENTS: usize = 64;
const ADDERS: usize = 32;
/// Slices of each loop in a round.
const TURNS: u32 = 6;
/// Rounds that are not counted.
const WARM: u32 = 2;

/// What some loops did: operations a second, and the median and 99th percentile in microseconds.
#[derive(Debug, Clone, Copy)]
struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// The slices of one loop.
#[derive(Debug, Default)]
struct Slices {
    latencies: Vec<u32>,
    elapsed: Duration,
}

impl Slices {
    fn add(&mut self, (latencies, elapsed): (Vec<u32>, Duration)) {
        self.latencies.extend(latencies);
        self.elapsed += elapsed;
    }

    fn measured(mut self) -> Measured {
        self.latencies.sort_unstable();
        let all = &self.latencies;
        let at = |q: f64| f64::from(all[((all.len() - 1) as f64 * q) as usize]);
        Measured { rate: all.len() as f64 / self.elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
    }
}

/// Runs `clients` loops of `work` for `time`. Each is given numbers that follow each other; it returns how many
/// microseconds its operations took, or nothing where it is to be timed as a whole.
async fn measure<W, F>(clients: usize, time: Duration, work: W) -> (Vec<u32>, Duration)
where
    W: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = Option<Vec<u32>>> + Send,
{
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let begun = Instant::now();
    let lanes = (0..clients).map(|_| {
        let work = work.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < time {
                let each = Instant::now();
                let told = work(NUMBER.fetch_add(1, Ordering::Relaxed)).await;
                latencies.extend(told.unwrap_or_else(|| vec![each.elapsed().as_micros() as u32]));
            }
            latencies
        })
    });
    let latencies = join_all(lanes).await.into_iter().flat_map(Result::unwrap).collect();
    (latencies, begun.elapsed())
}

/// Everything that is measured, by name, a value each round.
#[derive(Default)]
struct Rounds(Vec<(String, Vec<Measured>)>);

impl Rounds {
    fn add(&mut self, name: impl Into<String>, measured: Measured) {
        let name = name.into();
        match self.0.iter_mut().find(|(of, _)| *of == name) {
            Some((_, all)) => all.push(measured),
            None => self.0.push((name, vec![measured])),
        }
    }

    fn all(&self, name: &str) -> &[Measured] {
        self.0.iter().find(|(of, _)| of == name).map_or(&[], |(_, all)| all)
    }

    fn print(&self) {
        for (name, all) in &self.0 {
            let told = |of: fn(&Measured) -> f64| spread(all.iter().map(of));
            println!("{name:<34} {}/s  p50 {} us  p99 {} us", told(|m| m.rate), told(|m| m.p50), told(|m| m.p99));
        }
    }

    /// Tells how one is beside another, round by round.
    fn compare(&self, what: &str, one: &str, other: &str, of: impl Fn(&Measured, &Measured) -> f64) {
        println!("{what:<52} {}", spread(self.all(one).iter().zip(self.all(other)).map(|(a, b)| of(a, b))));
    }
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let show = |value: f64| if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    format!("{} ({}-{})", show(values[values.len() / 2]), show(values[0]), show(values[values.len() - 1]))
}

/// What is measured, and how.
struct Bench {
    raw: Arc<Raw>,
    buckets: Buckets,
    bucket: BucketName,
    platform: Platform,
    /// Two of the same: how much a difference means.
    embedded: [Platform; 2],
    time: Duration,
}

impl Bench {
    async fn open(folder: &std::path::Path, config: Config, time: Duration) -> Self {
        migrate(&config).await.unwrap();
        let raw = Arc::new(Raw::open(&config.nodes[0], &config.keyspace).await);
        let store = Cassandra::open(&config, WallClock::system()).await.unwrap();
        let buckets = Buckets::new(Arc::new(store));
        let bucket = BucketName { namespace: Name::namespace_default(), bucket: Name::new("bench").unwrap() };
        let own: PathBuf = std::env::current_exe().unwrap();
        let binary = own.parent().and_then(|examples| examples.parent()).map(|target| target.join("faas"));
        let env = [
            ("FAAS_STORE_TYPE", "cassandra".to_owned()),
            ("FAAS_CASSANDRA_NODES", format!("[\"{}\"]", config.nodes[0])),
            ("FAAS_CASSANDRA_KEYSPACE", config.keyspace.clone()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        let clustered = Options { binary: binary.clone(), env, ..Options::default() };
        let platform = Platform::start(&folder.join("clustered"), clustered).await.unwrap();
        let alone = || Options { binary: binary.clone(), ..Options::default() };
        let embedded = Platform::start(&folder.join("embedded"), alone()).await.unwrap();
        let twin = Platform::start(&folder.join("twin"), alone()).await.unwrap();
        samples::trial_manifest(&folder.join("trial"), "trial", "state = [\"bench\"]").unwrap();
        for platform in [&platform, &embedded, &twin] {
            platform.deploy(&folder.join("trial")).await.unwrap();
            platform.deploy(&samples::folder("hello")).await.unwrap();
        }
        Self { raw, buckets, bucket, platform, embedded: [embedded, twin], time }
    }

    async fn put(&self, key: u64) {
        let value = Bytes::from_static(VALUE);
        self.buckets.put(&self.bucket, &key.to_string(), value, None, Require::Nothing, soon()).await.unwrap();
    }

    /// Gets and puts by the driver, by the store and by a function, with as many clients, in turns.
    async fn round(&self, clients: usize, rounds: &mut Rounds) {
        let (mut gets, mut puts) = (<[Slices; 3]>::default(), <[Slices; 3]>::default());
        for turn in 0..TURNS as usize {
            // Each follows each of the others as often: what one leaves to do in the node, another pays.
            for by in (0..3).map(|place| (place + turn) % 3) {
                gets[by].add(self.by(by, clients, false).await);
            }
            for by in (0..3).map(|place| (place + turn) % 3) {
                puts[by].add(self.by(by, clients, true).await);
            }
        }
        for (op, slices) in [("get", gets), ("put", puts)] {
            for (by, slices) in ["driver", "store", "function"].iter().zip(slices) {
                rounds.add(format!("{op}, {by}, {clients}"), slices.measured());
            }
        }
    }

    async fn by(&self, which: usize, clients: usize, put: bool) -> (Vec<u32>, Duration) {
        match which {
            0 => self.by_driver(clients, put).await,
            1 => self.by_store(clients, put).await,
            _ => self.by_function(clients, if put { "puts" } else { "gets" }).await,
        }
    }

    async fn by_driver(&self, clients: usize, put: bool) -> (Vec<u32>, Duration) {
        let raw = Arc::clone(&self.raw);
        let work = move |n| {
            let raw = Arc::clone(&raw);
            async move {
                if put {
                    raw.put(n % KEYS, VALUE).await;
                } else {
                    assert_eq!(raw.get(n % KEYS).await.len(), VALUE.len());
                }
                None
            }
        };
        measure(clients, self.slice(), work).await
    }

    async fn by_store(&self, clients: usize, put: bool) -> (Vec<u32>, Duration) {
        let (buckets, bucket) = (self.buckets.clone(), self.bucket.clone());
        let work = move |n: u64| {
            let (buckets, bucket, key) = (buckets.clone(), bucket.clone(), (n % KEYS).to_string());
            async move {
                if put {
                    let value = Bytes::from_static(VALUE);
                    buckets.put(&bucket, &key, value, None, Require::Nothing, soon()).await.unwrap();
                } else {
                    let entry = buckets.get(&bucket, &key, Read::Linearizable, soon()).await.unwrap();
                    assert_eq!(entry.unwrap().value.len(), VALUE.len());
                }
                None
            }
        };
        measure(clients, self.slice(), work).await
    }

    async fn by_function(&self, clients: usize, what: &'static str) -> (Vec<u32>, Duration) {
        let (client, functions) = (Client::default(), self.platform.ready().functions.clone());
        let work = move |n| {
            let (client, url) = (client.clone(), format!("http://{functions}/function/trial/state/{what}?bench/{n}"));
            async move {
                let text = client.get(&url).await.unwrap().text();
                Some(text.split(',').map(|each| each.parse().unwrap_or_else(|_| panic!("{text}"))).collect())
            }
        };
        measure(clients, self.slice(), work).await
    }

    fn slice(&self) -> Duration {
        self.time / TURNS
    }

    async fn increments(&self, rounds: &mut Rounds) {
        let (buckets, bucket) = (self.buckets.clone(), self.bucket.clone());
        let work = move |_| {
            let (buckets, bucket) = (buckets.clone(), bucket.clone());
            async move {
                assert!(buckets.increment(&bucket, "counter", 1, soon()).await.unwrap() > 0);
                None
            }
        };
        let mut slices = Slices::default();
        slices.add(measure(ADDERS, self.time, work).await);
        rounds.add(format!("increments of one key, store, {ADDERS}"), slices.measured());
    }

    /// Returns the CPU of a call that touches no state, in microseconds, on Cassandra and on two embedded stores, in turns.
    async fn stateless(&self) -> [f64; 3] {
        let platforms = [&self.platform, &self.embedded[0], &self.embedded[1]];
        let (mut used, mut good) = ([0.0; 3], [0; 3]);
        for turn in 0..2 * TURNS as usize {
            for at in (0..3).map(|place| (place + turn) % 3) {
                let ready = platforms[at].ready();
                let shot = Shot::get(&ready.functions, "/function/hello/");
                let before = cpu::time_of(ready.pid).unwrap();
                let outcome = closed_loop(&shot, 16, self.slice()).await.unwrap();
                used[at] += cpu::time_of(ready.pid).unwrap().saturating_sub(before).as_secs_f64() * 1e6;
                good[at] += outcome.good;
            }
        }
        std::array::from_fn(|at| used[at] / good[at] as f64)
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().unwrap());
    let (rounds_max, seconds) = (arguments.next().unwrap_or(3), arguments.next().unwrap_or(5));
    let folder = std::env::temp_dir().join(format!("faas-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let node = cassandra::Node::measured().unwrap();
    node.start().unwrap();
    let config = Config { nodes: vec![node.address()], keyspace: cassandra::keyspace(), ..Config::default() };
    let bench = Bench::open(&folder, config, Duration::from_secs(seconds)).await;
    // Before the heaps of the two have had different work.
    let mut cpus = Vec::new();
    for _ in 0..rounds_max {
        cpus.push(bench.stateless().await);
    }
    futures_util::stream::iter(0..KEYS).for_each_concurrent(CLIENTS, |key| bench.put(key)).await;
    // The node compiles itself while it is used.
    for _ in 0..WARM {
        bench.round(CLIENTS, &mut Rounds::default()).await;
    }
    let mut rounds = Rounds::default();
    for _ in 0..rounds_max {
        bench.round(1, &mut rounds).await;
        bench.round(CLIENTS, &mut rounds).await;
        bench.increments(&mut rounds).await;
    }
    println!("values of 1 KiB, {KEYS} keys, {rounds_max} rounds of {seconds} s each; median (range)");
    rounds.print();
    println!();
    for op in ["get", "put"] {
        for by in ["store", "function"] {
            let of = |by: &str, clients: usize| format!("{op}, {by}, {clients}");
            let extra = |a: &Measured, b: &Measured| (a.p50 - b.p50) / 1e3;
            rounds.compare(&format!("{op}: p50 of the {by} - driver, ms"), &of(by, 1), &of("driver", 1), extra);
            let rate = |a: &Measured, b: &Measured| a.rate / b.rate;
            let (one, other) = (of(by, CLIENTS), of("driver", CLIENTS));
            rounds.compare(&format!("{op}: rate of the {by} / driver, {CLIENTS}"), &one, &other, rate);
        }
    }
    for (at, of) in ["Cassandra", "embedded", "its twin"].iter().enumerate() {
        println!("CPU of a call without state, us: {of:<10} {}", spread(cpus.iter().map(|all| all[at])));
    }
    println!("CPU of a call without state: Cassandra / embedded    {}", spread(cpus.iter().map(|all| all[0] / all[1])));
    println!("CPU of a call without state: its twin / embedded     {}", spread(cpus.iter().map(|all| all[2] / all[1])));
    let resident = |platform: &Platform| cpu::resident_bytes(platform.ready().pid).unwrap() as f64 / f64::from(1 << 20);
    println!(
        "resident after it: Cassandra {:.1} MiB, embedded {:.1} MiB",
        resident(&bench.platform),
        resident(&bench.embedded[0])
    );
    drop(bench);
    std::fs::remove_dir_all(&folder).unwrap();
}
