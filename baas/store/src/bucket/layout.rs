//! Where a key lies in [`Space::Value`].
//!
//! | what | partition's name | sort | value |
//! |---|---|---|---|
//! | a key without a tag | bucket, `00`, key | empty | the value |
//! | a key with a `{tag}` | bucket, `01`, tag | key | the value |
//! | the index row of a key with a tag | bucket, `00`, key | empty | nothing |
//!
//! So every key of a bucket, with a tag or without, has a partition that is
//! named after it, and a list is one walk over partitions in byte order. A
//! bucket's name has neither byte (it is a DNS label).

use bytes::Bytes;

use super::{BucketName, KEY_BYTES_MAX};
use crate::{Bound, Key, Partition, Space, StoreError};

const BY_KEY: u8 = 0;
const BY_TAG: u8 = 1;

/// Where a key's row is and, for a key with a tag, the partition of its index row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) row: Key,
    pub(super) index: Option<Partition>,
}

/// Returns the tag of a key: what stands between the first `{` and the next `}`, unless empty
/// (Redis Cluster specification, "Hash tags").
#[must_use]
pub fn tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// Returns where `key` lies.
pub(super) fn place(bucket: &BucketName, key: &str) -> Result<Place, StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid("a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(StoreError::TooLarge { what: Bound::KeyBytes, max: KEY_BYTES_MAX as u64 });
    }
    let own = partition(bucket, BY_KEY, key);
    Ok(match tag(key) {
        None => Place { row: Key { partition: own, sort: Bytes::new() }, index: None },
        Some(tag) => {
            let sort = Bytes::copy_from_slice(key.as_bytes());
            Place { row: Key { partition: partition(bucket, BY_TAG, tag), sort }, index: Some(own) }
        }
    })
}

fn partition(bucket: &BucketName, kind: u8, name: &str) -> Partition {
    Partition { namespace: bucket.namespace.clone(), space: Space::Value, name: prefix_of(bucket, kind, name).into() }
}

/// Returns the prefix of the names of the partitions that a list walks over.
pub(super) fn list_prefix(bucket: &BucketName, prefix: &str) -> Vec<u8> {
    prefix_of(bucket, BY_KEY, prefix)
}

fn prefix_of(bucket: &BucketName, kind: u8, rest: &str) -> Vec<u8> {
    let bucket = bucket.bucket.as_str().as_bytes();
    let mut name = Vec::with_capacity(bucket.len() + 1 + rest.len());
    name.extend_from_slice(bucket);
    name.push(kind);
    name.extend_from_slice(rest.as_bytes());
    name
}

/// Returns the key that a listed partition is named after.
pub(super) fn listed_key(bucket: &BucketName, name: &[u8]) -> Result<String, StoreError> {
    name.strip_prefix(bucket.bucket.as_str().as_bytes())
        .and_then(|rest| rest.strip_prefix(&[BY_KEY]))
        .and_then(|key| String::from_utf8(key.to_vec()).ok())
        .ok_or_else(|| StoreError::Corrupt("a bucket holds a key that is not UTF-8".into()))
}
