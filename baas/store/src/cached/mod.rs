//! A cache in this process, in front of the reads of another store.
//!
//! - It answers [`Store::get`] of [`Space::Value`] with [`Read::Local`], and nothing else. A row, or that there is none,
//!   is told for at most `age_max` after the read that found it began: what others write is missed no longer than that.
//! - What is written here is forgotten before the writer is told, whatever came of it. A read that was on its way
//!   meanwhile keeps nothing: it may have seen the row as it was before.
//! - Never more than `bytes_max` are kept; what was not asked for lately goes first.
//! - With an `age_max` of 0 nothing is kept and every read of a value is linearizable, whatever the caller allows.

mod shard;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use metrics::{Counter, Gauge, Unit};
use tokio::time::Instant;

use self::shard::Shard;
use crate::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Page, Partition, Read, Row, Slice, Space, Store, StoreError,
    Transactions, WallClock, Write, WriteId, expired,
};

/// Parts with a lock each. A row of more than half a part is not kept.
const SHARDS: usize = 32;

/// A store whose rows are remembered for a while.
pub struct Cached {
    inner: Arc<dyn Store>,
    clock: WallClock,
    age_max: Duration,
    shards: [Mutex<Shard>; SHARDS],
    places: RandomState,
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("inner", &self.inner).field("age_max", &self.age_max).finish_non_exhaustive()
    }
}

impl Cached {
    /// Returns `inner` with a cache of at most `bytes_max` bytes, of rows that are told for at most `age_max` after
    /// they were read. Their expiry is judged by `clock`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, clock: WallClock, age_max: Duration, bytes_max: usize) -> Self {
        metrics::describe_counter!("faas_store_cache_hits_total", "Reads that the local cache answered");
        metrics::describe_counter!("faas_store_cache_misses_total", "Reads that it might have answered and did not");
        metrics::describe_gauge!("faas_store_cache_bytes", Unit::Bytes, "Bytes in the local cache");
        Self {
            inner,
            clock,
            age_max,
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(bytes_max / SHARDS))),
            places: RandomState::new(),
            hits: metrics::counter!("faas_store_cache_hits_total"),
            misses: metrics::counter!("faas_store_cache_misses_total"),
            bytes: metrics::gauge!("faas_store_cache_bytes"),
        }
    }

    async fn read(&self, key: &Key, read: Read, by: Instant) -> Result<Option<Row>, StoreError> {
        if key.partition.space != Space::Value {
            return self.inner.get(key, read, by).await;
        }
        if self.age_max.is_zero() {
            return self.inner.get(key, Read::Linearizable, by).await;
        }
        // A row is as old as the read that found it.
        let began = Instant::now();
        if read == Read::Local {
            if began > by {
                return Err(StoreError::Deadline);
            }
            if let Some(row) = self.shard(&key.partition, |shard| shard.look(key, began, self.age_max)) {
                self.hits.increment(1);
                return Ok(row.filter(|row| !expired(row.expires, self.clock.now())));
            }
            self.misses.increment(1);
        }
        let writes = self.shard(&key.partition, |shard| shard.writes());
        let row = self.inner.get(key, read, by).await?;
        self.shard(&key.partition, |shard| shard.keep(key, row.clone(), began, writes));
        Ok(row)
    }

    /// Works on the part that has the rows of a partition.
    fn shard<T>(&self, partition: &Partition, work: impl FnOnce(&mut Shard) -> T) -> T {
        let place = usize::try_from(self.places.hash_one(partition) % SHARDS as u64).unwrap_or_default();
        let Some(shard) = self.shards.get(place) else { unreachable!("a remainder is below its divisor") };
        let mut shard: MutexGuard<'_, Shard> = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shard.bytes();
        let done = work(&mut shard);
        let after = shard.bytes();
        drop(shard);
        if after != before {
            self.bytes.increment(after as f64 - before as f64);
        }
        done
    }

    /// Returns what forgets the rows of these writes when it is dropped.
    fn forgetting(&self, writes: &[Write]) -> Forget<'_> {
        let values = writes.iter().filter(|write| write.partition.space == Space::Value && !self.age_max.is_zero());
        let rows = values.flat_map(|write| {
            write.changes.iter().map(|change| Key { partition: write.partition.clone(), sort: change.sort().clone() })
        });
        Forget { cached: self, rows: rows.collect() }
    }
}

/// Forgets rows when it is dropped: before a writer is told, and when it leaves.
struct Forget<'a> {
    cached: &'a Cached,
    rows: Vec<Key>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        for key in &self.rows {
            self.cached.shard(&key.partition, |shard| shard.forget(key));
        }
    }
}

impl Store for Cached {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        Box::pin(self.read(key, read, by))
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        self.inner.get_many(keys, by)
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        let forget = self.forgetting(std::slice::from_ref(&write));
        Box::pin(async move {
            let done = self.inner.write(write, by).await;
            drop(forget);
            done
        })
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        Box::pin(async move {
            let fate = self.inner.fate(partition, id, by).await;
            if partition.space == Space::Value && !self.age_max.is_zero() {
                // It may acknowledge a write, and does not say of which rows.
                self.shard(partition, |shard| shard.forget_all(partition));
            }
            fate
        })
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>> {
        self.inner.scan(partition, range, page, by)
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        self.inner.partitions(namespace, space, prefix, page, by)
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        self.inner.changes(namespace, page, by)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.inner.transactions().map(|_| self as &dyn Transactions)
    }
}

impl Transactions for Cached {
    fn write_all(&self, writes: Vec<Write>, by: Instant) -> Fut<'_, Vec<Committed>> {
        let forget = self.forgetting(&writes);
        Box::pin(async move {
            let Some(transactions) = self.inner.transactions() else {
                return Err(StoreError::Invalid("the store has no transactions"));
            };
            let done = transactions.write_all(writes, by).await;
            drop(forget);
            done
        })
    }
}
