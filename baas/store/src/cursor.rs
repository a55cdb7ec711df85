//! Cursors: opaque to callers, told apart by their first byte. For those who write a store.

use bytes::Bytes;

use crate::{Cursor, Page, StoreError};

/// What a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Store::scan`](crate::Store::scan).
    Scan = 1,
    /// [`Store::partitions`](crate::Store::partitions).
    Partitions = 2,
    /// [`Store::changes`](crate::Store::changes).
    Changes = 3,
}

/// A cursor that no reader of this kind gave.
pub const FOREIGN: StoreError = StoreError::Invalid("the cursor is not one of this list");

/// Longest cursor, in bytes.
const BYTES_MAX: usize = 4_096;

/// Makes a cursor of a position, which has at most 4,095 bytes.
#[must_use]
pub fn seal(kind: Kind, position: &[u8]) -> Cursor {
    let mut bytes = Vec::with_capacity(1 + position.len());
    bytes.push(kind as u8);
    bytes.extend_from_slice(position);
    Cursor(Bytes::from(bytes))
}

/// Returns the position of a page's cursor.
///
/// # Errors
/// [`FOREIGN`].
pub fn open(kind: Kind, page: &Page) -> Result<Option<&[u8]>, StoreError> {
    let Some(Cursor(bytes)) = &page.after else { return Ok(None) };
    match bytes.split_first() {
        Some((first, position)) if *first == kind as u8 && bytes.len() <= BYTES_MAX => Ok(Some(position)),
        _ => Err(FOREIGN),
    }
}
