//! Durable puts per second, in one run: the bare engine in a loop of groups, and the embedded store
//! with the same groups.
//!
//! `cargo run --release -p faas-store --example state -- [SECONDS] [FOLDER] [CLIENTS...]`
//!
//! Values have 1 KiB, keys are random. "raw row" commits the row alone, "raw row+log" the row and
//! its change-log row, which is what the store does. Groups of the raw loops are as large as the
//! store's were on average; a closed loop of 64 clients makes groups of about 32.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark prints, and ends where it fails"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use faas_store::{Change, Embedded, EmbeddedConfig, Logged, Partition, Require, Space, Store, Write, WriteId};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use redb::{Builder, Database, TableDefinition};
use tokio::time::Instant;
use uuid::Uuid;

const VALUE_BYTES: usize = 1024;
const CACHE_BYTES: usize = 32 << 20;
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("raw");

/// One measured loop.
struct Measured {
    name: &'static str,
    clients: usize,
    group: f64,
    elapsed: Duration,
    latencies: Vec<Duration>,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn print(&mut self, against: Option<f64>) {
        self.latencies.sort_unstable();
        let at = |q: f64| {
            let last = self.latencies.len().saturating_sub(1);
            self.latencies.get((last as f64 * q) as usize).map_or(0.0, |d| d.as_secs_f64() * 1e3)
        };
        let ratio = against.map_or(String::new(), |other| format!("  {:.2}x raw row+log", self.per_second() / other));
        println!(
            "{:<12} clients {:>3}  group {:>5.1}  {:>7.0} puts/s  p50 {:>6.2} ms  p99 {:>6.2} ms{ratio}",
            self.name,
            self.clients,
            self.group,
            self.per_second(),
            at(0.5),
            at(0.99),
        );
    }
}

/// Values that do not compress, and keys at random.
struct Data(u64);

impl Data {
    fn next(&mut self) -> u64 {
        // Xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn value(&mut self) -> Vec<u8> {
        (0..VALUE_BYTES / 8).flat_map(|_| self.next().to_be_bytes()).collect()
    }

    fn key(&mut self) -> Vec<u8> {
        format!("bench\0{:020}", self.next()).into_bytes()
    }
}

/// Commits groups in a bare loop; each put of a group takes as long as its commit.
fn raw(path: &Path, name: &'static str, clients: usize, group: usize, log: bool, time: Duration) -> Measured {
    let database: Database = Builder::new().set_cache_size(CACHE_BYTES).create(path).unwrap();
    let mut data = Data(7);
    let mut sequence = 0_u64;
    let mut latencies = Vec::new();
    // Making the data is not the engine's work.
    let mut elapsed = Duration::ZERO;
    while elapsed < time {
        let puts: Vec<_> = (0..group).map(|_| (data.key(), data.value())).collect();
        let commit = Instant::now();
        let mut transaction = database.begin_write().unwrap();
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(TABLE).unwrap();
        for (key, value) in &puts {
            table.insert(&key[..], &value[..]).unwrap();
            if log {
                sequence += 1;
                let mut key = vec![0xF1];
                key.extend_from_slice(&sequence.to_be_bytes());
                table.insert(&key[..], &value[..]).unwrap();
            }
        }
        drop(table);
        transaction.commit().unwrap();
        let took = commit.elapsed();
        elapsed += took;
        latencies.extend(std::iter::repeat_n(took, group));
    }
    Measured { name, clients, group: group as f64, elapsed, latencies }
}

/// Puts by a closed loop of clients.
async fn store(path: &Path, counted: &Counted, clients: usize, time: Duration) -> Measured {
    let config = EmbeddedConfig { cache_bytes: CACHE_BYTES, ..EmbeddedConfig::default() };
    let store = Arc::new(Embedded::open(path, config).unwrap());
    let groups = counted.get("faas_store_groups_total");
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| tokio::spawn(client_loop(Arc::clone(&store), client as u64 + 1, began + time)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let elapsed = began.elapsed();
    store.close().await;
    let groups = counted.get("faas_store_groups_total") - groups;
    let group = latencies.len() as f64 / groups.max(1) as f64;
    Measured { name: "store", clients, group, elapsed, latencies }
}

async fn client_loop(store: Arc<Embedded>, seed: u64, until: Instant) -> Vec<Duration> {
    let namespace = Name::namespace_default();
    let mut data = Data(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let partition = Partition { namespace: namespace.clone(), space: Space::Value, name: data.key().into() };
        let put =
            Change::Put { sort: Bytes::new(), value: data.value().into(), expires: None, require: Require::Nothing };
        let write = Write { partition, id: WriteId::fresh(), changes: vec![put], log: Logged::Values };
        let began = Instant::now();
        store.write(write, began + Duration::from_secs(30)).await.unwrap();
        latencies.push(began.elapsed());
    }
    latencies
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(3.0, |text| text.parse().unwrap());
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let mut clients: Vec<usize> = arguments.map(|text| text.parse().unwrap()).collect();
    if clients.is_empty() {
        clients = vec![1, 64];
    }
    let folder = folder.join(format!("faas-state-{}", Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let counted = Counted::install();
    let time = Duration::from_secs_f64(seconds);
    for clients in clients {
        // The store first: it says how large the groups are.
        let mut of_store = store(&folder.join(format!("store-{clients}")), &counted, clients, time).await;
        let group = (of_store.group.round() as usize).max(1);
        let rows = folder.join(format!("raw-{clients}"));
        let rows_log = folder.join(format!("raw-log-{clients}"));
        let (mut row, mut row_log) = tokio::task::spawn_blocking(move || {
            (
                raw(&rows, "raw row", clients, group, false, time),
                raw(&rows_log, "raw row+log", clients, group, true, time),
            )
        })
        .await
        .unwrap();
        row.print(None);
        row_log.print(None);
        of_store.print(Some(row_log.per_second()));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Keeps the counters that libraries register, to read the groups off.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Counted {
    fn install() -> Self {
        let counted = Self::default();
        metrics::set_global_recorder(counted.clone()).unwrap();
        counted
    }

    fn slot(&self, name: &str) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap().entry(name.to_owned()).or_default())
    }

    fn get(&self, name: &str) -> u64 {
        self.slot(name).load(Ordering::Relaxed)
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key.name()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
