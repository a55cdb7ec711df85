//! The closed set of what can go wrong in a store.

use std::time::Duration;

use crate::{Row, WriteId};

/// Why a store call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A condition did not hold; the row as it is now.
    #[error("the precondition does not hold")]
    Conflict(Option<Row>),
    /// Whether the write took effect is not known; `fate` settles it.
    #[error("it is not known whether the write took effect")]
    Unknown(WriteId),
    /// The store cannot be reached.
    #[error("the store is not available")]
    Unavailable {
        /// When to try again.
        after: Duration,
    },
    /// The caller's time is over; nothing was written.
    #[error("the store did not answer in time")]
    Deadline,
    /// Something is over a bound.
    #[error("{what} is over its limit of {max}")]
    TooLarge {
        /// What.
        what: Bound,
        /// The bound.
        max: u64,
    },
    /// Malformed input, such as an empty write or one row named twice.
    #[error("{0}")]
    Invalid(&'static str),
    /// The disk is full; nothing was written.
    #[error("the disk is full")]
    Full,
    /// The cursor is older than what is kept.
    #[error("the position is older than what is kept")]
    Gone,
    /// Stored bytes do not read back.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Returns whether the same write may be sent again unchanged.
    #[must_use]
    pub fn retry(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Deadline | Self::Full)
    }
}

/// What can be over a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Bytes of a partition's name.
    PartitionBytes,
    /// Bytes of a sort.
    SortBytes,
    /// Bytes of a bucket's key.
    KeyBytes,
    /// Bytes of a value.
    ValueBytes,
    /// Changes of one write.
    Changes,
    /// Bytes of one write.
    WriteBytes,
    /// Keys of one read.
    Keys,
    /// Bytes of the values of one `get_many`.
    ReadBytes,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PartitionBytes => "the partition's name",
            Self::SortBytes => "the row's name",
            Self::KeyBytes => "the key",
            Self::ValueBytes => "the value",
            Self::Changes => "the number of changes",
            Self::WriteBytes => "the write",
            Self::Keys => "the number of keys",
            Self::ReadBytes => "the values of one read together",
        })
    }
}
