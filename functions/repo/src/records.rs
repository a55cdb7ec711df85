//! Functions, revisions and aliases as rows of the store.
//!
//! Layout of [`Space::Catalog`], all values JSON:
//! - partition = function name: `a/{alias}` an [`AliasRecord`], `r/{revision id}`
//!   a [`Revision`], `v` the number of the newest version. `a` sorts first, so
//!   that a removal in slices takes the aliases with its first slice.
//! - partition `#namespaces` of the default namespace: one row per namespace
//!   that has or had a function, written before the function's first row.
//! - partition `#changes`: see [`journal`](crate::journal).

mod change;
mod read;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use faas_model::{FunctionName, Name, RevisionId};
use faas_store::{
    Fate, Key, Logged, PATIENCE, Page, Partition, Row, Space, Store, StoreError, Version, Write, WriteId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::RepoError;

/// `#` occurs in no name, so no function is called like that.
const NAMESPACES: &[u8] = b"#namespaces";
const COUNTER: &[u8] = b"v";
/// Every alias sorts between these two.
const ALIASES: (&[u8], &[u8]) = (b"a/", b"a0");
/// Every revision sorts between these two.
const REVISIONS: (&[u8], &[u8]) = (b"r/", b"r0");
/// Tries of one change against others that change the same function.
const TRIES_MAX: usize = 16;
/// How long the fate of an unknown write is asked for.
const SETTLE: Duration = Duration::from_secs(10);

/// The records of all functions.
#[derive(Debug)]
pub(crate) struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Writes; `false` when a condition did not hold, so that the caller reads again.
    async fn write(
        &self,
        partition: Partition,
        id: WriteId,
        changes: Vec<faas_store::Change>,
    ) -> Result<bool, RepoError> {
        let done = write(&*self.store, partition, id, changes, Logged::Values).await?;
        Ok(done.is_some())
    }
}

/// Writes, and settles an unknown outcome; `None` when a condition did not hold, or the write never took effect.
pub(crate) async fn write(
    store: &dyn Store,
    partition: Partition,
    id: WriteId,
    changes: Vec<faas_store::Change>,
    log: Logged,
) -> Result<Option<Version>, RepoError> {
    let write = Write { partition: partition.clone(), id, changes, log };
    match store.write(write, by()).await {
        Ok(done) => Ok(Some(done.version)),
        Err(StoreError::Conflict(_)) => Ok(None),
        Err(StoreError::Unknown(id)) => match store.fate(&partition, id, Instant::now() + SETTLE).await? {
            Fate::Committed(done) => Ok(Some(done.version)),
            Fate::Never => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

/// Reads all rows of a range of a partition, in the order of their sorts.
pub(crate) async fn rows(
    store: &dyn Store,
    partition: &Partition,
    range: std::ops::Range<Bytes>,
) -> Result<Vec<Row>, RepoError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let slice = store.scan(partition, range.clone(), page(after), by()).await?;
        rows.extend(slice.items);
        after = slice.next;
        if after.is_none() {
            return Ok(rows);
        }
    }
}

pub(crate) fn by() -> Instant {
    Instant::now() + PATIENCE
}

pub(crate) fn page(after: Option<faas_store::Cursor>) -> Page {
    Page { after, rows_max: 500, bytes_max: 4 << 20 }
}

pub(crate) fn partition(function: &FunctionName) -> Partition {
    let name = Bytes::copy_from_slice(function.name.as_str().as_bytes());
    Partition { namespace: function.namespace.clone(), space: Space::Catalog, name }
}

fn namespaces_partition() -> Partition {
    Partition { namespace: Name::namespace_default(), space: Space::Catalog, name: Bytes::from_static(NAMESPACES) }
}

fn key(function: &FunctionName, sort: Bytes) -> Key {
    Key { partition: partition(function), sort }
}

fn alias_sort(alias: &Name) -> Bytes {
    format!("a/{alias}").into()
}

fn revision_sort(id: &RevisionId) -> Bytes {
    format!("r/{id}").into()
}

fn range((from, to): (&'static [u8], &'static [u8])) -> std::ops::Range<Bytes> {
    Bytes::from_static(from)..Bytes::from_static(to)
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, RepoError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| RepoError::Corrupt(e.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, RepoError> {
    serde_json::from_slice(bytes).map_err(|e| RepoError::Corrupt(format!("{what}: {e}")))
}

/// Returns the wall time, in Unix milliseconds.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
