//! State on Cassandra beside the driver alone, in one run on one node: gets and puts of 1 KiB by the store in this
//! process and through `wasi:keyvalue` of a deployed function, increments of one key, the memory of `faas up`, and what
//! a call costs that touches no state.
//!
//! `cargo run --release --workspace --example cluster -- [ROUNDS] [SECONDS]`, after `cargo build --release --workspace
//! --bins`. Each round measures everything once, interleaved; printed are the median and the range of the rounds.
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
use faas_loadtest::load::{Shot, closed_loop};
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::{cassandra, cpu, samples};
use faas_model::Name;
use faas_store::bucket::{BucketName, Buckets};
use faas_store::{Read, Require, WallClock};
use futures_util::future::join_all;
use tokio::time::Instant;

use self::raw::Raw;

const KEYS: u64 = 1_000;
const VALUE: &[u8] = &[b'v'; 1_024];
const CLIENTS: usize = 64;
const ADDERS: usize = 32;

/// One loop: requests a second, and the median and 99th percentile in microseconds.
#[derive(Debug, Clone, Copy)]
struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
}

impl Measured {
    fn of(mut latencies: Vec<u32>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        let at = |q: f64| f64::from(latencies[((latencies.len() - 1) as f64 * q) as usize]);
        Self { rate: latencies.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
    }
}

/// Runs `clients` loops of `work` for `time`; each is given numbers that go round the keys.
async fn measure<W, F>(clients: usize, time: Duration, work: W) -> Measured
where
    W: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let begun = Instant::now();
    let lanes = (0..clients).map(|_| {
        let work = work.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < time {
                let each = Instant::now();
                work(NUMBER.fetch_add(1, Ordering::Relaxed) % KEYS).await;
                latencies.push(each.elapsed().as_micros() as u32);
            }
            latencies
        })
    });
    let latencies = join_all(lanes).await.into_iter().flat_map(Result::unwrap).collect();
    Measured::of(latencies, begun.elapsed())
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
    embedded: Platform,
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
        let alone = Options { binary, ..Options::default() };
        let embedded = Platform::start(&folder.join("embedded"), alone).await.unwrap();
        samples::trial_manifest(&folder.join("trial"), "trial", "state = [\"bench\"]").unwrap();
        for platform in [&platform, &embedded] {
            platform.deploy(&folder.join("trial")).await.unwrap();
            platform.deploy(&samples::folder("hello")).await.unwrap();
        }
        Self { raw, buckets, bucket, platform, embedded, time }
    }

    async fn put(&self, key: u64) {
        let value = Bytes::from_static(VALUE);
        self.buckets.put(&self.bucket, &key.to_string(), value, None, Require::Nothing, soon()).await.unwrap();
    }

    /// Gets and puts by the driver, by the store and by a function, with as many clients.
    async fn round(&self, clients: usize, rounds: &mut Rounds) {
        let raw = Arc::clone(&self.raw);
        let got = measure(clients, self.time, move |key| {
            let raw = Arc::clone(&raw);
            async move { assert_eq!(raw.get(key).await.len(), VALUE.len()) }
        });
        rounds.add(format!("get, driver, {clients}"), got.await);
        let (buckets, bucket) = (self.buckets.clone(), self.bucket.clone());
        let got = measure(clients, self.time, move |key| {
            let (buckets, bucket) = (buckets.clone(), bucket.clone());
            async move {
                let entry = buckets.get(&bucket, &key.to_string(), Read::Linearizable, soon()).await.unwrap();
                assert_eq!(entry.unwrap().value.len(), VALUE.len());
            }
        });
        rounds.add(format!("get, store, {clients}"), got.await);
        let raw = Arc::clone(&self.raw);
        let put = measure(clients, self.time, move |key| {
            let raw = Arc::clone(&raw);
            async move { raw.put(key, VALUE).await }
        });
        rounds.add(format!("put, driver, {clients}"), put.await);
        let (buckets, bucket) = (self.buckets.clone(), self.bucket.clone());
        let put = measure(clients, self.time, move |key| {
            let (buckets, bucket) = (buckets.clone(), bucket.clone());
            async move {
                let (key, value) = (key.to_string(), Bytes::from_static(VALUE));
                buckets.put(&bucket, &key, value, None, Require::Nothing, soon()).await.unwrap();
            }
        });
        rounds.add(format!("put, store, {clients}"), put.await);
        for (name, path) in [("no state", "open?bench"), ("get", "get?bench/{n}"), ("put", "put?bench/{n}")] {
            let target = format!("/function/trial/state/{path}");
            let shot = Shot { numbered: true, ..Shot::get(&self.platform.ready().functions, &target) };
            let outcome = closed_loop(&shot, clients, self.time).await.unwrap();
            assert_eq!(outcome.bad, 0, "{name} failed");
            rounds.add(format!("{name}, function, {clients}"), Measured::of(outcome.latencies_us, outcome.elapsed));
        }
    }

    async fn increments(&self, rounds: &mut Rounds) {
        let (buckets, bucket) = (self.buckets.clone(), self.bucket.clone());
        let added = measure(ADDERS, self.time, move |_| {
            let (buckets, bucket) = (buckets.clone(), bucket.clone());
            async move { assert!(buckets.increment(&bucket, "counter", 1, soon()).await.unwrap() > 0) }
        });
        rounds.add(format!("increments of one key, store, {ADDERS}"), added.await);
    }

    /// Returns the CPU of a call that touches no state, in microseconds, on Cassandra and on the embedded store.
    async fn stateless(&self) -> [f64; 2] {
        let mut used = [0.0; 2];
        for (platform, used) in [&self.platform, &self.embedded].into_iter().zip(&mut used) {
            let (pid, shot) = (platform.ready().pid, Shot::get(&platform.ready().functions, "/function/hello/"));
            let before = cpu::time_of(pid).unwrap();
            let outcome = closed_loop(&shot, 16, self.time).await.unwrap();
            let took = cpu::time_of(pid).unwrap().saturating_sub(before);
            *used = took.as_secs_f64() * 1e6 / outcome.good as f64;
        }
        used
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().unwrap());
    let (rounds_max, seconds) = (arguments.next().unwrap_or(3), arguments.next().unwrap_or(4));
    let folder = std::env::temp_dir().join(format!("faas-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let node = cassandra::Node::new(false).unwrap();
    node.start().unwrap();
    let config = Config { nodes: vec![node.address()], keyspace: cassandra::keyspace(), ..Config::default() };
    let bench = Bench::open(&folder, config, Duration::from_secs(seconds)).await;
    for key in 0..KEYS {
        bench.put(key).await;
    }
    // The node compiles itself while it is used.
    let mut warm = Rounds::default();
    bench.round(CLIENTS, &mut warm).await;
    let (mut rounds, mut cpus) = (Rounds::default(), Vec::new());
    for _ in 0..rounds_max {
        bench.round(1, &mut rounds).await;
        bench.round(CLIENTS, &mut rounds).await;
        bench.increments(&mut rounds).await;
        cpus.push(bench.stateless().await);
    }
    println!("values of 1 KiB, {KEYS} keys, {rounds_max} rounds of {seconds} s; median (range)");
    rounds.print();
    println!();
    for op in ["get", "put"] {
        let of = |by: &str, clients: usize| format!("{op}, {by}, {clients}");
        let extra = |a: &Measured, b: &Measured| (a.p50 - b.p50) / 1e3;
        let (store, driver, function) = (of("store", 1), of("driver", 1), of("function", 1));
        rounds.compare(&format!("{op}: p50 of the store - driver, ms"), &store, &driver, extra);
        let through: Vec<f64> = rounds
            .all(&function)
            .iter()
            .zip(rounds.all("no state, function, 1"))
            .zip(rounds.all(&driver))
            .map(|((with, without), raw)| (with.p50 - without.p50 - raw.p50) / 1e3)
            .collect();
        println!("{:<52} {}", format!("{op}: p50 of wasi:keyvalue - driver, ms"), spread(through.into_iter()));
        let rate = |a: &Measured, b: &Measured| a.rate / b.rate;
        let (store, driver, function) = (of("store", CLIENTS), of("driver", CLIENTS), of("function", CLIENTS));
        rounds.compare(&format!("{op}: rate of the store / driver, {CLIENTS}"), &store, &driver, rate);
        rounds.compare(&format!("{op}: rate of a whole call / driver, {CLIENTS}"), &function, &driver, rate);
    }
    println!("CPU of a call without state, us: Cassandra {}", spread(cpus.iter().map(|[here, _]| *here)));
    println!("CPU of a call without state, us: embedded  {}", spread(cpus.iter().map(|[_, there]| *there)));
    println!("CPU of a call without state, ratio         {}", spread(cpus.iter().map(|[here, there]| here / there)));
    let resident = |platform: &Platform| cpu::resident_bytes(platform.ready().pid).unwrap() as f64 / f64::from(1 << 20);
    println!(
        "resident after it: Cassandra {:.1} MiB, embedded {:.1} MiB",
        resident(&bench.platform),
        resident(&bench.embedded)
    );
    drop(bench);
    std::fs::remove_dir_all(&folder).unwrap();
}
