//! The bounds of the seam, checked once at the border of every store.

use std::collections::HashSet;

use crate::{Bound, Change, Key, Page, Partition, Require, Row, StoreError, Write};

/// Longest name of a partition, in bytes; the shortest is 1.
pub const PARTITION_BYTES_MAX: usize = 1_200;
/// Longest sort, in bytes.
pub const SORT_BYTES_MAX: usize = 1_200;
/// Largest value of a row, in bytes.
pub const ROW_VALUE_BYTES_MAX: usize = 1 << 20;
/// Most changes of one write.
pub const CHANGES_MAX: usize = 1_000;
/// Most bytes of sorts and values of one write.
pub const WRITE_BYTES_MAX: usize = 2 << 20;
/// Most writes and changes of one transaction; its bytes are bounded by twice [`WRITE_BYTES_MAX`].
pub const TRANSACTION_CHANGES_MAX: usize = 2_000;
/// Most keys of one `get_many`.
pub const KEYS_MAX: usize = 1_000;
/// Most bytes of values in the answer of one `get_many`; a key named twice counts twice.
pub const GET_MANY_BYTES_MAX: usize = 8 << 20;
/// Most rows of one page.
pub const PAGE_ROWS_MAX: u32 = 10_000;

impl Change {
    /// Returns which row the change is about.
    #[must_use]
    pub fn sort(&self) -> &bytes::Bytes {
        match self {
            Self::Put { sort, .. } | Self::Delete { sort, .. } | Self::Check { sort, .. } => sort,
        }
    }

    /// Returns what must hold for the change.
    #[must_use]
    pub fn require(&self) -> &Require {
        match self {
            Self::Put { require, .. } | Self::Delete { require, .. } | Self::Check { require, .. } => require,
        }
    }
}

fn at_most(what: Bound, is: usize, max: usize) -> Result<(), StoreError> {
    if is <= max { Ok(()) } else { Err(StoreError::TooLarge { what, max: max as u64 }) }
}

/// Checks the name of a partition.
///
/// # Errors
/// `Invalid` for an empty one, `TooLarge`.
pub fn partition(partition: &Partition) -> Result<(), StoreError> {
    if partition.name.is_empty() {
        return Err(StoreError::Invalid("a partition has a name of at least one byte"));
    }
    at_most(Bound::PartitionBytes, partition.name.len(), PARTITION_BYTES_MAX)
}

/// Checks a key.
///
/// # Errors
/// `TooLarge`, and as [`partition`].
pub fn key(key: &Key) -> Result<(), StoreError> {
    partition(&key.partition)?;
    at_most(Bound::SortBytes, key.sort.len(), SORT_BYTES_MAX)
}

/// Checks the keys of one read.
///
/// # Errors
/// `TooLarge`, and as [`key`].
pub fn keys(keys: &[Key]) -> Result<(), StoreError> {
    at_most(Bound::Keys, keys.len(), KEYS_MAX)?;
    keys.iter().try_for_each(key)
}

/// Adds a row of a `get_many` to the bytes of its answer.
///
/// # Errors
/// `TooLarge`.
pub fn add_to_answer(bytes: &mut usize, row: Option<&Row>) -> Result<(), StoreError> {
    *bytes += row.map_or(0, |row| row.value.len());
    at_most(Bound::ReadBytes, *bytes, GET_MANY_BYTES_MAX)
}

/// Checks a page.
///
/// # Errors
/// `Invalid` for one without rows, `TooLarge`.
pub fn page(page: &Page) -> Result<(), StoreError> {
    if page.rows_max == 0 {
        return Err(StoreError::Invalid("a page has at least one row"));
    }
    at_most(Bound::Keys, page.rows_max as usize, PAGE_ROWS_MAX as usize)
}

/// Checks a write, and returns the bytes of its sorts and values together.
///
/// # Errors
/// `Invalid`, `TooLarge`.
pub fn write(write: &Write) -> Result<usize, StoreError> {
    partition(&write.partition)?;
    if write.changes.is_empty() {
        return Err(StoreError::Invalid("a write has at least one change"));
    }
    at_most(Bound::Changes, write.changes.len(), CHANGES_MAX)?;
    let mut bytes = 0;
    for change in &write.changes {
        at_most(Bound::SortBytes, change.sort().len(), SORT_BYTES_MAX)?;
        bytes += change.sort().len();
        if let Change::Put { value, .. } = change {
            at_most(Bound::ValueBytes, value.len(), ROW_VALUE_BYTES_MAX)?;
            bytes += value.len();
        }
    }
    at_most(Bound::WriteBytes, bytes, WRITE_BYTES_MAX)?;
    if write.changes.len() > 1 {
        let mut seen = HashSet::with_capacity(write.changes.len());
        if !write.changes.iter().all(|change| seen.insert(change.sort())) {
            return Err(StoreError::Invalid("a row is named twice in one write"));
        }
    }
    Ok(bytes)
}

/// Returns the bytes of sorts and values together.
pub(crate) fn transaction(writes: &[Write]) -> Result<usize, StoreError> {
    if writes.is_empty() {
        return Err(StoreError::Invalid("a transaction has at least one write"));
    }
    let mut bytes = 0;
    let mut seen = HashSet::new();
    for each in writes {
        bytes += write(each)?;
        for change in &each.changes {
            if !seen.insert((&each.partition, change.sort())) {
                return Err(StoreError::Invalid("a row is named twice in one transaction"));
            }
        }
    }
    at_most(Bound::Changes, seen.len(), TRANSACTION_CHANGES_MAX)?;
    at_most(Bound::WriteBytes, bytes, 2 * WRITE_BYTES_MAX)?;
    Ok(bytes)
}
