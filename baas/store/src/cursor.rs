//! Cursors: opaque to callers, told apart by their first byte.

use bytes::Bytes;

use crate::{Cursor, Page, StoreError};

/// What a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Scan = 1,
    Partitions = 2,
    Changes = 3,
}

/// A cursor that no reader of this kind gave.
pub(crate) const FOREIGN: StoreError = StoreError::Invalid("the cursor is not one of this list");

/// Longest cursor, in bytes.
const BYTES_MAX: usize = 4_096;

pub(crate) fn seal(kind: Kind, position: &[u8]) -> Cursor {
    let mut bytes = Vec::with_capacity(1 + position.len());
    bytes.push(kind as u8);
    bytes.extend_from_slice(position);
    Cursor(Bytes::from(bytes))
}

/// Returns the position of a page's cursor.
pub(crate) fn open(kind: Kind, page: &Page) -> Result<Option<&[u8]>, StoreError> {
    let Some(Cursor(bytes)) = &page.after else { return Ok(None) };
    match bytes.split_first() {
        Some((first, position)) if *first == kind as u8 && bytes.len() <= BYTES_MAX => Ok(Some(position)),
        _ => Err(FOREIGN),
    }
}
