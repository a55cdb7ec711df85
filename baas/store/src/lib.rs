//! Ordered, versioned values with preconditions, atomic batches within a
//! partition and a change log: [`Store`].
//!
//! **Never knows** functions, HTTP or documents.
//!
//! One mapping fits an embedded tree and Cassandra: a *partition* is the thing
//! whose changes must be atomic, *sort* names the rows inside it. Conditions,
//! order and atomic batches are promised within one partition and nowhere else.

pub mod bounds;
pub mod bucket;
mod cached;
mod clock;
pub mod conformance;
pub mod cursor;
mod embedded;
mod error;
mod lease;
mod memory;
mod seam;

pub use bounds::{
    CHANGES_MAX, GET_MANY_BYTES_MAX, KEYS_MAX, PAGE_ROWS_MAX, PARTITION_BYTES_MAX, ROW_VALUE_BYTES_MAX, SORT_BYTES_MAX,
    TRANSACTION_CHANGES_MAX, WRITE_BYTES_MAX,
};
pub use cached::Cached;
pub use clock::{WallClock, expired};
pub use embedded::{Config as EmbeddedConfig, Embedded, OpenError, Status as EmbeddedStatus};
pub use error::{Bound, StoreError};
pub use lease::{Lease, Token};
pub use memory::Memory;
pub use seam::*;
