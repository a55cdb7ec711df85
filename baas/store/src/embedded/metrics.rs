//! The metrics of the embedded store, registered once.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};

use super::layout::Meta;

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
    #[cfg(test)]
    pub(super) groups_seen: std::sync::atomic::AtomicU64,
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
            #[cfg(test)]
            groups_seen: std::sync::atomic::AtomicU64::default(),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a group has at most a few thousand writes")]
    pub(super) fn group(&self, writes: usize, took: Duration, meta: &Meta) {
        self.groups.increment(1);
        #[cfg(test)]
        self.groups_seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.group_writes.record(writes as f64);
        self.commit_seconds.record(took.as_secs_f64());
        self.log(meta);
    }

    #[allow(clippy::cast_precision_loss, reason = "a gauge needs no more than 52 bits")]
    pub(super) fn log(&self, meta: &Meta) {
        self.log_records.set(meta.log_records as f64);
        self.log_bytes.set(meta.log_bytes as f64);
    }
}
