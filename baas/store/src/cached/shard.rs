//! One part of the cache: two halves, of which the older goes whole when the younger is full.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Key, Partition, Row};

/// What a row costs beside its name and value: its place in the map and the heads of its allocations.
const ROW_BYTES: usize = 384;

/// What a read found.
#[derive(Debug)]
struct Found {
    row: Option<Row>,
    /// When the read began.
    since: Instant,
}

fn bytes(key: &Key, row: Option<&Row>) -> usize {
    let key = key.partition.namespace.as_str().len() + key.partition.name.len() + key.sort.len();
    ROW_BYTES + key + row.map_or(0, |row| row.value.len())
}

#[derive(Debug, Default)]
struct Half {
    rows: HashMap<Key, Found>,
    bytes: usize,
}

impl Half {
    fn put(&mut self, key: Key, found: Found) {
        self.remove(&key);
        self.bytes += bytes(&key, found.row.as_ref());
        self.rows.insert(key, found);
    }

    fn remove(&mut self, key: &Key) -> Option<Found> {
        let found = self.rows.remove(key)?;
        self.bytes -= bytes(key, found.row.as_ref());
        Some(found)
    }
}

/// Rows of some partitions; what is asked for is in the younger half.
#[derive(Debug)]
pub(super) struct Shard {
    young: Half,
    old: Half,
    half_max: usize,
    /// Writes so far: a read that began before one may have seen what it replaced.
    writes: u64,
}

impl Shard {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { young: Half::default(), old: Half::default(), half_max: bytes_max / 2, writes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// Returns the row, or that there is none, if it was read less than `age_max` before `now`.
    pub(super) fn look(&mut self, key: &Key, now: Instant, age_max: Duration) -> Option<Option<Row>> {
        let fresh = |found: &Found| now.saturating_duration_since(found.since) < age_max;
        if let Some(found) = self.young.rows.get(key).filter(|found| fresh(found)) {
            return Some(found.row.clone());
        }
        self.young.remove(key);
        let found = self.old.remove(key).filter(fresh)?;
        let row = found.row.clone();
        self.put(key.clone(), found);
        Some(row)
    }

    /// Keeps what a read found that began `since`, when there had been so many `writes`.
    pub(super) fn keep(&mut self, key: &Key, row: Option<Row>, since: Instant, writes: u64) {
        if self.writes != writes {
            return;
        }
        let kept = self.young.rows.get(key).or_else(|| self.old.rows.get(key));
        if kept.is_some_and(|kept| kept.since > since) {
            return;
        }
        self.remove(key);
        self.put(key.clone(), Found { row, since });
    }

    fn put(&mut self, key: Key, found: Found) {
        let bytes = bytes(&key, found.row.as_ref());
        if bytes > self.half_max {
            return;
        }
        if self.young.bytes + bytes > self.half_max {
            self.old = mem::take(&mut self.young);
        }
        self.young.put(key, found);
    }

    fn remove(&mut self, key: &Key) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Forgets a row that was written, and what reads that are on their way will find.
    pub(super) fn forget(&mut self, key: &Key) {
        self.writes += 1;
        self.remove(key);
    }

    /// Forgets every row of a partition.
    pub(super) fn forget_all(&mut self, partition: &Partition) {
        self.writes += 1;
        for half in [&mut self.young, &mut self.old] {
            let gone: Vec<Key> = half.rows.keys().filter(|key| key.partition == *partition).cloned().collect();
            gone.iter().for_each(|key| drop(half.remove(key)));
        }
    }
}
