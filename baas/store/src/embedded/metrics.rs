//! The metrics of the embedded store, registered once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};

use super::layout::Meta;
use super::status::Status;

pub(super) struct Metrics {
    groups: Counter,
    group_writes: Histogram,
    commit_seconds: Histogram,
    log_records: Gauge,
    log_bytes: Gauge,
    pub(super) reads: Counter,
    pub(super) conflicts: Counter,
    pub(super) commit_failures: Counter,
    pub(super) reopens: Counter,
    pub(super) expired: Counter,
    told: Told,
}

/// What is told to who asks, beside the metrics, which cannot be read.
#[derive(Default)]
struct Told {
    commits: AtomicU64,
    writes: AtomicU64,
    commit_us: AtomicU64,
    log_records: AtomicU64,
    log_bytes: AtomicU64,
}

impl Metrics {
    pub(super) fn register() -> Self {
        use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
        describe_counter!("faas_store_groups_total", "Durable commits, each of a group of writes");
        describe_histogram!("faas_store_group_writes", "Writes of one group");
        describe_histogram!("faas_store_commit_seconds", Unit::Seconds, "Time of one durable commit");
        describe_gauge!("faas_store_log_records", "Records in the change log");
        describe_gauge!("faas_store_log_bytes", Unit::Bytes, "Bytes in the change log");
        describe_counter!("faas_store_reads_total", "Reads, of one row or of many");
        describe_counter!("faas_store_conflicts_total", "Writes whose condition did not hold");
        describe_counter!("faas_store_commit_failures_total", "Commits that failed on the disk");
        describe_counter!("faas_store_reopens_total", "Times the file was reopened after a failure");
        describe_counter!("faas_store_expired_total", "Expired rows that were removed");
        Self {
            groups: counter!("faas_store_groups_total"),
            group_writes: histogram!("faas_store_group_writes"),
            commit_seconds: histogram!("faas_store_commit_seconds"),
            log_records: gauge!("faas_store_log_records"),
            log_bytes: gauge!("faas_store_log_bytes"),
            reads: counter!("faas_store_reads_total"),
            conflicts: counter!("faas_store_conflicts_total"),
            commit_failures: counter!("faas_store_commit_failures_total"),
            reopens: counter!("faas_store_reopens_total"),
            expired: counter!("faas_store_expired_total"),
            told: Told::default(),
        }
    }

    /// Returns what was counted so far, of a file of that many bytes.
    pub(super) fn status(&self, file_bytes: Option<u64>) -> Status {
        let told = &self.told;
        let commits = told.commits.load(Relaxed);
        Status {
            store: "embedded",
            file_bytes,
            commits,
            writes: told.writes.load(Relaxed),
            commit_us_mean: told.commit_us.load(Relaxed).checked_div(commits),
            log_records: told.log_records.load(Relaxed),
            log_bytes: told.log_bytes.load(Relaxed),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a group has at most a few thousand writes")]
    pub(super) fn group(&self, writes: usize, took: Duration, meta: &Meta) {
        self.groups.increment(1);
        self.told.commits.fetch_add(1, Relaxed);
        self.told.writes.fetch_add(writes as u64, Relaxed);
        self.told.commit_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.group_writes.record(writes as f64);
        self.commit_seconds.record(took.as_secs_f64());
        self.log(meta);
    }

    #[allow(clippy::cast_precision_loss, reason = "a gauge needs no more than 52 bits")]
    pub(super) fn log(&self, meta: &Meta) {
        self.told.log_records.store(meta.log_records, Relaxed);
        self.told.log_bytes.store(meta.log_bytes, Relaxed);
        self.log_records.set(meta.log_records as f64);
        self.log_bytes.set(meta.log_bytes as f64);
    }
}
