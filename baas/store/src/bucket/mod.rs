//! Key-value semantics over a [`Store`]: one module that the Wasm host and the
//! HTTP door both call.
//!
//! Bounds: key 1 to 1,024 bytes of UTF-8, value at most 1 MiB, list page at
//! most 1,000 keys, batch at most 1,000 keys and 2 MiB of keys and values.
//!
//! A key is its own partition unless it carries a `{tag}`: keys with the same
//! tag share one, and batches hold within it on every store (see [`tag`]). A
//! key with a tag has an index row under its own name, so that lists find it.
//! Where the store has transactions both are one commit. Elsewhere the index
//! row is written first and never removed: a crash leaves one too many, never
//! one too few, and lists look whether the key is there.

mod lane;
mod layout;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use faas_model::Name;
use tokio::time::Instant;

use self::lane::Lanes;
use self::layout::Place;
pub use self::layout::tag;
use crate::{
    Bound, Change, Cursor, GET_MANY_BYTES_MAX, Key, Logged, Page, Partition, Read, Require, Row, Slice, Space, Store,
    StoreError, Version, WRITE_BYTES_MAX, WallTime, Write, WriteId,
};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most keys of one list page, one `get_many` or one batch.
pub const KEYS_MAX: usize = 1_000;

/// All buckets of one store.
#[derive(Debug, Clone)]
pub struct Buckets {
    store: Arc<dyn Store>,
    lanes: Arc<Lanes>,
}

/// A bucket of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketName {
    /// The tenant.
    pub namespace: Name,
    /// The bucket.
    pub bucket: Name,
}

/// A stored pair's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Its version, the ETag of the HTTP door.
    pub version: Version,
    /// When it ceases to exist.
    pub expires: Option<WallTime>,
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        Self { value: row.value, version: row.version, expires: row.expires }
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchChange {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
}

impl BatchChange {
    /// Returns the key that changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl Buckets {
    /// Returns the buckets of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, lanes: Arc::default() }
    }

    /// Reads a key. What a write will be judged by is read linearizably; what is only looked at may be
    /// [`Read::Local`], which is as fresh as the operator wants it ([`Cached`](crate::Cached)).
    ///
    /// # Errors
    /// As [`Store::get`]; `TooLarge` for a key over its bound.
    pub async fn get(
        &self,
        bucket: &BucketName,
        key: &str,
        read: Read,
        by: Instant,
    ) -> Result<Option<Entry>, StoreError> {
        let place = layout::place(bucket, key)?;
        Ok(self.store.get(&place.row, read, by).await?.map(Entry::from))
    }

    /// Reads at most 1,000 keys, in their order, and at most 8 MiB of values
    /// ([`GET_MANY_BYTES_MAX`](crate::GET_MANY_BYTES_MAX)); a key named twice counts twice.
    ///
    /// # Errors
    /// As [`get`](Self::get); `TooLarge` for too many keys or too many bytes.
    pub async fn get_many(
        &self,
        bucket: &BucketName,
        keys: &[String],
        by: Instant,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        at_most(Bound::Keys, keys.len(), KEYS_MAX)?;
        let rows =
            keys.iter().map(|key| Ok(layout::place(bucket, key)?.row)).collect::<Result<Vec<_>, StoreError>>()?;
        let rows = self.store.get_many(&rows, by).await?;
        Ok(rows.into_iter().map(|row| row.map(Entry::from)).collect())
    }

    /// Writes a key if `require` holds. Durable when it returns.
    ///
    /// # Errors
    /// As [`Store::write`]; `TooLarge` for a key or value over its bound.
    pub async fn put(
        &self,
        bucket: &BucketName,
        key: &str,
        value: Bytes,
        expires: Option<WallTime>,
        require: Require,
        by: Instant,
    ) -> Result<Version, StoreError> {
        at_most(Bound::ValueBytes, value.len(), VALUE_BYTES_MAX)?;
        let place = layout::place(bucket, key)?;
        let change = Change::Put { sort: place.row.sort.clone(), value, expires, require };
        self.change(place, change, WriteId::fresh(), by).await
    }

    /// Removes a key if `require` holds; removing what is not there is no error unless required.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn delete(
        &self,
        bucket: &BucketName,
        key: &str,
        require: Require,
        by: Instant,
    ) -> Result<(), StoreError> {
        let place = layout::place(bucket, key)?;
        let change = Change::Delete { sort: place.row.sort.clone(), require };
        self.change(place, change, WriteId::fresh(), by).await.map(|_| ())
    }

    /// Adds `delta` to a counter stored as an ASCII decimal; absent counts as 0. Atomic.
    ///
    /// Increments of one key that are under way at the same time in this process share one write.
    /// The counter's expiry stays.
    ///
    /// # Errors
    /// `Invalid` when the value is no number or the sum overflows; else as [`Store::write`].
    pub async fn increment(&self, bucket: &BucketName, key: &str, delta: i64, by: Instant) -> Result<i64, StoreError> {
        let place = layout::place(bucket, key)?;
        self.lanes.increment(self, place, delta, by).await
    }

    /// Lists keys by prefix in byte order, at most `max` (1 to 1,000) of them.
    ///
    /// A key that exists during the whole list is in it once. A page may be empty and have a cursor.
    ///
    /// # Errors
    /// As [`Store::partitions`].
    pub async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<Cursor>,
        max: u32,
        by: Instant,
    ) -> Result<Slice<String>, StoreError> {
        at_most(Bound::Keys, max as usize, KEYS_MAX)?;
        let page = Page { after, rows_max: max, bytes_max: u32::MAX };
        let prefix = layout::list_prefix(bucket, prefix);
        let names = self.store.partitions(&bucket.namespace, Space::Value, &prefix, page, by).await?;
        let keys =
            names.items.iter().map(|name| layout::listed_key(bucket, name)).collect::<Result<Vec<_>, StoreError>>()?;
        let items = if self.store.transactions().is_some() { keys } else { self.existing(bucket, keys, by).await? };
        Ok(Slice { items, next: names.next })
    }

    /// Applies all changes or none. Every key carries the same `{tag}`, or the store has transactions.
    ///
    /// # Errors
    /// `Invalid` when the keys cannot be changed together here; `TooLarge` for more than 1,000 keys
    /// or 2 MiB of keys and values; else as [`Store::write`].
    pub async fn batch(&self, bucket: &BucketName, changes: Vec<BatchChange>, by: Instant) -> Result<(), StoreError> {
        let batch = Batch::plan(bucket, changes)?;
        if let Some(transactions) = self.store.transactions() {
            let writes = batch.rows.into_iter().chain(batch.index).collect();
            return transactions.write_all(writes, by).await.map(|_| ());
        }
        // Without transactions: one partition, and the index rows before it.
        let mut rows = batch.rows.into_iter();
        let (Some(write), None) = (rows.next(), rows.next()) else {
            return Err(StoreError::Invalid("keys that change together carry the same {tag}"));
        };
        for index in batch.index {
            self.index_first(index, by).await?;
        }
        self.store.write(write, by).await.map(|_| ())
    }

    /// Makes one change of one key, and of its index row if it has one.
    async fn change(&self, place: Place, change: Change, id: WriteId, by: Instant) -> Result<Version, StoreError> {
        let index = place.index.map(|partition| index_write(partition, &change, id));
        let write = Write { partition: place.row.partition, id, changes: vec![change], log: Logged::Values };
        let Some(index) = index else {
            return Ok(self.store.write(write, by).await?.version);
        };
        match self.store.transactions() {
            Some(transactions) => {
                let committed = transactions.write_all(vec![write, index], by).await?;
                committed.first().map(|first| first.version).ok_or(StoreError::Unknown(id))
            }
            None => {
                self.index_first(index, by).await?;
                Ok(self.store.write(write, by).await?.version)
            }
        }
    }

    /// Writes an index row where it cannot be in the same commit: before its key, without expiry,
    /// and never removed.
    async fn index_first(&self, mut index: Write, by: Instant) -> Result<(), StoreError> {
        index.id = WriteId::fresh();
        index.changes.retain_mut(|change| match change {
            Change::Put { expires, .. } => {
                *expires = None;
                true
            }
            _ => false,
        });
        if index.changes.is_empty() {
            return Ok(());
        }
        match self.store.write(index, by).await {
            // The key itself was not touched, and a surplus index row is harmless.
            Err(StoreError::Unknown(_)) => Err(StoreError::Deadline),
            other => other.map(|_| ()),
        }
    }

    /// Keeps the keys that exist, for stores where an index row may outlive its key.
    async fn existing(&self, bucket: &BucketName, keys: Vec<String>, by: Instant) -> Result<Vec<String>, StoreError> {
        let doubtful: Vec<String> = keys.iter().filter(|key| tag(key).is_some()).cloned().collect();
        if doubtful.is_empty() {
            return Ok(keys);
        }
        let mut found = Vec::with_capacity(doubtful.len());
        // As many at a time as fit whatever their size.
        for some in doubtful.chunks(GET_MANY_BYTES_MAX / VALUE_BYTES_MAX) {
            found.extend(self.get_many(bucket, some, by).await?);
        }
        let gone: HashSet<String> =
            doubtful.into_iter().zip(found).filter(|(_, entry)| entry.is_none()).map(|(key, _)| key).collect();
        Ok(keys.into_iter().filter(|key| !gone.contains(key)).collect())
    }

    async fn read(&self, row: &Key, by: Instant) -> Result<Option<Row>, StoreError> {
        self.store.get(row, Read::Linearizable, by).await
    }
}

/// The writes of a batch.
struct Batch {
    /// One per partition.
    rows: Vec<Write>,
    index: Vec<Write>,
}

impl Batch {
    fn plan(bucket: &BucketName, changes: Vec<BatchChange>) -> Result<Self, StoreError> {
        if changes.is_empty() {
            return Err(StoreError::Invalid("a batch has at least one change"));
        }
        at_most(Bound::Keys, changes.len(), KEYS_MAX)?;
        let bytes = |change: &BatchChange| match change {
            BatchChange::Put { key, value } => key.len() + value.len(),
            BatchChange::Delete { key } => key.len(),
        };
        at_most(Bound::WriteBytes, changes.iter().map(bytes).sum(), WRITE_BYTES_MAX)?;
        let id = WriteId::fresh();
        let mut rows: Vec<Write> = Vec::new();
        let mut at: std::collections::HashMap<Partition, usize> = std::collections::HashMap::new();
        let mut index = Vec::new();
        for change in changes {
            let place = layout::place(bucket, change.key())?;
            let sort = place.row.sort;
            let change = match change {
                BatchChange::Put { value, .. } => {
                    at_most(Bound::ValueBytes, value.len(), VALUE_BYTES_MAX)?;
                    Change::Put { sort, value, expires: None, require: Require::Nothing }
                }
                BatchChange::Delete { .. } => Change::Delete { sort, require: Require::Nothing },
            };
            index.extend(place.index.map(|partition| index_write(partition, &change, id)));
            let of = *at.entry(place.row.partition.clone()).or_insert(rows.len());
            match rows.get_mut(of) {
                Some(write) => write.changes.push(change),
                None => {
                    rows.push(Write { partition: place.row.partition, id, changes: vec![change], log: Logged::Values })
                }
            }
        }
        Ok(Self { rows, index })
    }
}

/// Returns the change of the index row that goes with a change of a key.
fn index_write(partition: Partition, change: &Change, id: WriteId) -> Write {
    let sort = Bytes::new();
    let require = Require::Nothing;
    let change = match change {
        Change::Put { expires, .. } => Change::Put { sort, value: Bytes::new(), expires: *expires, require },
        Change::Delete { .. } | Change::Check { .. } => Change::Delete { sort, require },
    };
    Write { partition, id, changes: vec![change], log: Logged::No }
}

fn at_most(what: Bound, is: usize, max: usize) -> Result<(), StoreError> {
    if is <= max { Ok(()) } else { Err(StoreError::TooLarge { what, max: max as u64 }) }
}
