//! Code in a store that several processes share.
//!
//! Layout of [`Space::Code`] in the default namespace:
//! - partition = digest: one row, JSON, which upload holds the code and when it was last asked for;
//! - partition = digest and upload: the code in chunks of [`CHUNK`] bytes, in the order of their numbers.
//!
//! The row is written after the chunks. Removal takes the row, by its version, then the chunks: what a crash
//! leaves are chunks without a row. Nothing younger than [`GRACE`] is removed, so that who found code here
//! has that long to publish it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use faas_model::{Digest, Name};
use faas_store::{
    Change, Key, Logged, Partition, Read, Require, Row, Space, Store, StoreError, Version, WallClock, WriteId,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use uuid::{NoContext, Timestamp, Uuid};

use crate::records::{self, by, decode, encode, page};
use crate::{RepoError, Upload};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks read in one go.
const CHUNKS_AT_ONCE: u32 = 16;
/// How long code that nobody uses is kept, from when it was last asked for.
pub(crate) const GRACE: Duration = Duration::from_secs(3600);
/// How long after it was kept code may be published.
pub(crate) const PUBLISHED_WITHIN: Duration = Duration::from_secs(1800);
/// How long an upload to the store may take.
const PUT_MAX: Duration = Duration::from_secs(900);
/// From which age on code that is asked for is marked anew.
const MARKED_ANEW: Duration = Duration::from_secs(600);
/// Tries of one change against others of the same code.
const TRIES_MAX: usize = 16;
const DIGEST_BYTES: usize = 32;

#[derive(Debug)]
pub(crate) struct Shelf {
    store: Arc<dyn Store>,
    clock: WallClock,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Label {
    upload: Uuid,
    asked_ms: u64,
}

impl Shelf {
    pub(crate) fn new(store: Arc<dyn Store>, clock: WallClock) -> Self {
        Self { store, clock }
    }

    /// Puts a file's content under its digest, or marks it as asked for where it is there.
    pub(crate) async fn put(&self, code: &Digest, file: &Path) -> Result<(), RepoError> {
        let late = |_| RepoError::Store(StoreError::Deadline);
        timeout(PUT_MAX, self.put_unbounded(code, file)).await.map_err(late)?
    }

    async fn put_unbounded(&self, code: &Digest, file: &Path) -> Result<(), RepoError> {
        let mut upload = None;
        for _ in 0..TRIES_MAX {
            let now = self.clock.now().0;
            let (label, require) = match self.label(code).await? {
                Some((label, _)) if now.saturating_sub(label.asked_ms) < millis(MARKED_ANEW) => return Ok(()),
                Some((label, version)) => (Label { asked_ms: now, ..label }, Require::Version(version)),
                None => {
                    let upload = match upload {
                        Some(upload) => upload,
                        None => *upload.insert(self.put_chunks(code, file).await?),
                    };
                    (Label { upload, asked_ms: now }, Require::Absent)
                }
            };
            let put = Change::Put { sort: Bytes::new(), value: encode(&label)?, expires: None, require };
            if self.write(label_partition(code), vec![put]).await? {
                return Ok(());
            }
        }
        Err(StoreError::Conflict(None).into())
    }

    async fn put_chunks(&self, code: &Digest, file: &Path) -> Result<Uuid, RepoError> {
        let now = self.clock.now().0;
        let upload = Uuid::new_v7(Timestamp::from_unix(
            NoContext,
            now / 1_000,
            u32::try_from(now % 1_000).unwrap_or(0) * 1_000_000,
        ));
        let mut file = tokio::fs::File::open(file).await?;
        for number in 0_u32.. {
            let mut chunk = Vec::with_capacity(CHUNK);
            (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
            if chunk.is_empty() {
                break;
            }
            let (sort, value) = (Bytes::copy_from_slice(&number.to_be_bytes()), chunk.into());
            let put = Change::Put { sort, value, expires: None, require: Require::Nothing };
            if !self.write(chunks_partition(code, upload), vec![put]).await? {
                return Err(StoreError::Deadline.into());
            }
        }
        Ok(upload)
    }

    /// Writes the code into a fresh upload.
    ///
    /// # Errors
    /// `NotFound` when it is not there, or not any more.
    pub(crate) async fn get(&self, code: &Digest, upload: &mut Upload) -> Result<(), RepoError> {
        let missing = || RepoError::NotFound(format!("code {}", code.short()));
        let (label, _) = self.label(code).await?.ok_or_else(missing)?;
        let (from, mut next) = (chunks_partition(code, label.upload), None);
        loop {
            let page = faas_store::Page { after: next, rows_max: CHUNKS_AT_ONCE, bytes_max: 4 << 20 };
            let slice = self.store.scan(&from, Bytes::new()..Bytes::new(), page, by()).await?;
            for row in &slice.items {
                upload.write(&row.value).await?;
            }
            next = slice.next;
            if next.is_none() {
                break;
            }
        }
        // Whether it is that code its digest tells.
        Ok(())
    }

    /// Returns code that was not asked for lately, each with what its removal needs, and chunks that belong to none.
    pub(crate) async fn stale(&self) -> Result<Stale, RepoError> {
        let (namespace, mut next) = (Name::namespace_default(), None);
        let (mut code, mut chunks, oldest) = (Vec::new(), Vec::new(), self.clock.now().0.saturating_sub(millis(GRACE)));
        loop {
            let slice = self.store.partitions(&namespace, Space::Code, b"", page(next), by()).await?;
            for name in &slice.items {
                let (digest, upload) = read_name(name)?;
                let label = self.label(&digest).await?;
                match (label, upload) {
                    (Some((label, version)), None) if label.asked_ms < oldest => {
                        code.push((digest, version, label.upload))
                    }
                    (label, Some(upload)) => {
                        let used = label.is_some_and(|(label, _)| label.upload == upload);
                        if !used && made_ms(upload) < oldest {
                            chunks.push((digest, upload));
                        }
                    }
                    _ => {}
                }
            }
            next = slice.next;
            if next.is_none() {
                return Ok(Stale { code, chunks });
            }
        }
    }

    /// Removes what is stale and not in use; the use was read after the stale.
    pub(crate) async fn remove(&self, stale: Stale, used: &HashSet<Digest>) -> Result<Vec<Digest>, RepoError> {
        let (mut removed, mut chunks) = (Vec::new(), stale.chunks);
        for (code, version, upload) in stale.code.into_iter().filter(|(code, ..)| !used.contains(code)) {
            let gone = Change::Delete { sort: Bytes::new(), require: Require::Version(version) };
            // Somebody asked for it meanwhile.
            if self.write(label_partition(&code), vec![gone]).await? {
                removed.push(code);
                chunks.push((code, upload));
            }
        }
        for (code, upload) in chunks {
            self.remove_chunks(&chunks_partition(&code, upload)).await?;
        }
        Ok(removed)
    }

    async fn remove_chunks(&self, partition: &Partition) -> Result<(), RepoError> {
        loop {
            let page = faas_store::Page { after: None, rows_max: CHUNKS_AT_ONCE, bytes_max: 4 << 20 };
            let rows = self.store.scan(partition, Bytes::new()..Bytes::new(), page, by()).await?.items;
            if rows.is_empty() {
                return Ok(());
            }
            let delete = |row: Row| Change::Delete { sort: row.sort, require: Require::Nothing };
            self.write(partition.clone(), rows.into_iter().map(delete).collect()).await?;
        }
    }

    async fn label(&self, code: &Digest) -> Result<Option<(Label, Version)>, RepoError> {
        let key = Key { partition: label_partition(code), sort: Bytes::new() };
        let row = self.store.get(&key, Read::Linearizable, by()).await?;
        row.map(|row| Ok((decode(&row.value, "the label of code")?, row.version))).transpose()
    }

    /// Writes; `false` when a condition did not hold.
    async fn write(&self, partition: Partition, changes: Vec<Change>) -> Result<bool, RepoError> {
        let done = records::write(&*self.store, partition, WriteId::fresh(), changes, Logged::No).await?;
        Ok(done.is_some())
    }
}

/// What may be removed unless it is in use.
#[derive(Debug)]
pub(crate) struct Stale {
    code: Vec<(Digest, Version, Uuid)>,
    chunks: Vec<(Digest, Uuid)>,
}

fn label_partition(code: &Digest) -> Partition {
    named(Bytes::copy_from_slice(code.as_bytes()))
}

fn chunks_partition(code: &Digest, upload: Uuid) -> Partition {
    let mut name = BytesMut::with_capacity(DIGEST_BYTES + 16);
    name.put_slice(code.as_bytes());
    name.put_slice(upload.as_bytes());
    named(name.freeze())
}

fn named(name: Bytes) -> Partition {
    Partition { namespace: Name::namespace_default(), space: Space::Code, name }
}

/// Reads the name of a partition.
fn read_name(name: &[u8]) -> Result<(Digest, Option<Uuid>), RepoError> {
    let foreign = || RepoError::Corrupt(format!("code partition {name:?}"));
    let (digest, upload) = name.split_first_chunk::<DIGEST_BYTES>().ok_or_else(foreign)?;
    let upload = if upload.is_empty() { None } else { Some(Uuid::from_slice(upload).map_err(|_| foreign())?) };
    Ok((Digest::from(*digest), upload))
}

/// Returns when an upload began, Unix milliseconds.
fn made_ms(upload: Uuid) -> u64 {
    upload.get_timestamp().map_or(0, |time| {
        let (seconds, nanos) = time.to_unix();
        seconds * 1_000 + u64::from(nanos) / 1_000_000
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
