//! `wasi:keyvalue` 0.2.0-draft2 over the buckets of the store.
//!
//! A bucket that is not granted does not exist. Store errors become
//! `other("REASON: text")` with the platform's reasons; an outcome that is not
//! known is told as `outcome_unknown` and never tried again here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use faas_model::{Name, Reason};
use faas_store::bucket::{BatchChange, BucketName, Buckets, Entry};
use faas_store::{Cursor, Read, Require, StoreError, Version};
use tokio::time::Instant;
use wasmtime::Result as Trapping;
use wasmtime::component::Resource;

use super::bindings::wasi::keyvalue::atomics::{self, CasError};
use super::bindings::wasi::keyvalue::batch;
use super::bindings::wasi::keyvalue::store::{self, Error, KeyResponse};
use crate::failure::MEMORY_USED_UP;
use crate::state::State;

/// Keys of one page of `list-keys`.
const PAGE_KEYS: u32 = 1000;
/// Keys of one call of `get-many` at most: the store's bound.
const BATCH_KEYS_MAX: usize = 1000;

/// Bytes of the answer of one `get-many` at most: the store's bound.
const BATCH_BYTES_MAX: u64 = 8 << 20;

/// What a call may reach of the state.
#[derive(Debug, Clone)]
pub(crate) struct Grants {
    pub buckets: Buckets,
    pub namespace: Name,
    pub granted: Arc<BTreeSet<Name>>,
    /// How long one operation may take.
    pub patience: Duration,
    /// When the call ends at the latest, while it has not answered.
    pub until: Instant,
}

impl Grants {
    /// Returns when an operation that begins now has to be done.
    fn by(&self) -> Instant {
        let now = Instant::now();
        let patient = now + self.patience;
        // A call that streams its answer lives past its first deadline.
        if now < self.until { patient.min(self.until) } else { patient }
    }

    async fn look(&self, name: &BucketName, key: &str, read: Read) -> Result<Option<Entry>, Error> {
        self.buckets.get(name, key, read, self.by()).await.map_err(told)
    }

    /// Changes keys together where the store can, else one by one, as the interface allows.
    async fn change(&self, name: &BucketName, changes: Vec<BatchChange>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        match self.buckets.batch(name, changes.clone(), self.by()).await {
            Err(StoreError::Invalid(_) | StoreError::TooLarge { .. }) => {}
            done => return done.map_err(told),
        }
        for change in changes {
            let by = self.by();
            match change {
                BatchChange::Put { key, value } => {
                    self.buckets.put(name, &key, value, None, Require::Nothing, by).await.map(drop)
                }
                BatchChange::Delete { key } => self.buckets.delete(name, &key, Require::Nothing, by).await,
            }
            .map_err(told)?;
        }
        Ok(())
    }
}

/// The resource `bucket`.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket {
    name: BucketName,
}

/// The resource `cas`: the state of a key when it was made, by version alone. The value is read
/// again when it is asked for, so that handles hold no memory; should it have changed by then, the
/// swap fails, as it does for every change after the handle was made.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Cas {
    name: BucketName,
    key: String,
    found: Option<Version>,
}

impl State {
    fn bucket(&self, bucket: &Resource<Bucket>) -> Trapping<BucketName> {
        Ok(self.table.get(bucket)?.name.clone())
    }

    /// Makes a handle to the present state of a key.
    async fn remember(&mut self, name: BucketName, key: String) -> Trapping<Result<Resource<Cas>, Error>> {
        Ok(match self.grants.look(&name, &key, Read::Linearizable).await {
            Ok(entry) => {
                let found = entry.map(|entry| entry.version);
                Ok(self.table.push(Cas { name, key, found })?)
            }
            Err(error) => Err(error),
        })
    }
}

impl store::Host for State {
    async fn open(&mut self, identifier: String) -> Trapping<Result<Resource<Bucket>, Error>> {
        let Some(bucket) = self.grants.granted.get(identifier.as_str()).cloned() else {
            return Ok(Err(Error::NoSuchStore));
        };
        let name = BucketName { namespace: self.grants.namespace.clone(), bucket };
        Ok(Ok(self.table.push(Bucket { name })?))
    }
}

impl store::HostBucket for State {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Trapping<Result<Option<Vec<u8>>, Error>> {
        let name = self.bucket(&bucket)?;
        Ok(self.grants.look(&name, &key, Read::Local).await.map(|entry| entry.map(|entry| entry.value.into())))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Trapping<Result<(), Error>> {
        let name = self.bucket(&bucket)?;
        let put = self.grants.buckets.put(&name, &key, value.into(), None, Require::Nothing, self.grants.by());
        Ok(put.await.map(drop).map_err(told))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Trapping<Result<(), Error>> {
        let name = self.bucket(&bucket)?;
        Ok(self.grants.buckets.delete(&name, &key, Require::Nothing, self.grants.by()).await.map_err(told))
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Trapping<Result<bool, Error>> {
        let name = self.bucket(&bucket)?;
        Ok(self.grants.look(&name, &key, Read::Local).await.map(|entry| entry.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Trapping<Result<KeyResponse, Error>> {
        let name = self.bucket(&bucket)?;
        let after = match cursor.map(|text| cursor_from(&text)) {
            Some(None) => return Ok(Err(told(StoreError::Invalid("the cursor is not one that was given out")))),
            Some(after) => after,
            None => None,
        };
        let slice = self.grants.buckets.list(&name, "", after, PAGE_KEYS, self.grants.by()).await;
        let page = slice.map(|slice| KeyResponse { keys: slice.items, cursor: slice.next.map(|c| cursor_text(&c)) });
        Ok(page.map_err(told))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Trapping<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Trapping<Result<i64, Error>> {
        let name = self.bucket(&bucket)?;
        Ok(self.grants.buckets.increment(&name, &key, delta, self.grants.by()).await.map_err(told))
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Trapping<Result<(), CasError>> {
        let Cas { name, key, found } = self.table.delete(cas)?;
        let require = found.map_or(Require::Absent, Require::Version);
        let put = self.grants.buckets.put(&name, &key, value.into(), None, require, self.grants.by()).await;
        Ok(match put {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict(_)) => Err(match self.remember(name, key).await? {
                Ok(present) => CasError::CasFailed(present),
                Err(error) => CasError::StoreError(error),
            }),
            Err(error) => Err(CasError::StoreError(told(error))),
        })
    }
}

impl atomics::HostCas for State {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Trapping<Result<Resource<Cas>, Error>> {
        let name = self.bucket(&bucket)?;
        self.remember(name, key).await
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Trapping<Result<Option<Vec<u8>>, Error>> {
        let Cas { name, key, .. } = self.table.get(&cas)?;
        Ok(self.grants.look(name, key, Read::Linearizable).await.map(|entry| entry.map(|entry| entry.value.into())))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Trapping<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

impl batch::Host for State {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Trapping<Result<Vec<(String, Option<Vec<u8>>)>, Error>> {
        let name = self.bucket(&bucket)?;
        if keys.len() > BATCH_KEYS_MAX {
            let what = faas_store::Bound::Keys;
            return Ok(Err(told(StoreError::TooLarge { what, max: BATCH_KEYS_MAX as u64 })));
        }
        // Counted before anything is read; the answer counts until the next one or the call's end.
        if !self.limiter.lend(BATCH_BYTES_MAX) {
            return Ok(Err(Error::Other(format!("{}: {MEMORY_USED_UP}", Reason::QueueFull))));
        }
        let found = self.grants.buckets.get_many(&name, &keys, self.grants.by()).await;
        let bytes = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len() as u64);
        self.limiter.lend(found.iter().flatten().map(bytes).sum());
        let values = found.map(|found| found.into_iter().map(|entry| entry.map(|entry| entry.value.into())));
        Ok(values.map(|values| keys.into_iter().zip(values).collect()).map_err(told))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Trapping<Result<(), Error>> {
        let name = self.bucket(&bucket)?;
        let puts = pairs.into_iter().map(|(key, value)| BatchChange::Put { key, value: value.into() }).collect();
        Ok(self.grants.change(&name, puts).await)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Trapping<Result<(), Error>> {
        let name = self.bucket(&bucket)?;
        let deletes = keys.into_iter().map(|key| BatchChange::Delete { key }).collect();
        Ok(self.grants.change(&name, deletes).await)
    }
}

/// Tells a store's error as the guest may know it.
fn told(error: StoreError) -> Error {
    let reason = match error {
        StoreError::Conflict(_) => Reason::Conflict,
        StoreError::Unknown(_) => Reason::OutcomeUnknown,
        StoreError::Unavailable { .. } | StoreError::Deadline => Reason::StoreUnavailable,
        StoreError::TooLarge { .. } => Reason::BodyTooLarge,
        StoreError::Invalid(_) | StoreError::Gone => Reason::BadRequest,
        StoreError::Full => Reason::DiskFull,
        StoreError::Corrupt(_) => {
            tracing::error!(%error, "stored data is damaged");
            return Error::Other(format!("{}: stored data is damaged", Reason::Internal));
        }
    };
    Error::Other(format!("{reason}: {error}"))
}

fn cursor_text(cursor: &Cursor) -> String {
    cursor.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cursor_from(text: &str) -> Option<Cursor> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() > 4096 {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    Some(Cursor(bytes?.into()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn cursors_go_through_text_and_others_are_refused() {
        let cursor = Cursor(Bytes::from_static(b"\0key\xff"));
        assert_eq!(cursor_from(&cursor_text(&cursor)), Some(cursor));
        for bad in ["0", "zz", "é0", &"00".repeat(3000)] {
            assert_eq!(cursor_from(bad), None, "{bad}");
        }
    }

    #[test]
    fn errors_carry_our_reasons() {
        let Error::Other(text) = told(StoreError::Unknown(faas_store::WriteId::fresh())) else { panic!() };
        assert!(text.starts_with("outcome_unknown: "), "{text}");
        let Error::Other(text) = told(StoreError::Corrupt("page 7 of /srv/x".into())) else { panic!() };
        assert_eq!(text, "internal: stored data is damaged");
    }
}
