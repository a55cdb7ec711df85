//! The seam itself: keys, rows, writes, pages and the trait.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::StoreError;

/// What a partition is for; one documented layout each. The first byte of every key.
///
/// What follows the space belongs to the crate that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Space {
    /// Functions, revisions and aliases; owned by `faas-repo`. Partition = function name.
    Catalog = 1,
    /// Key-value pairs; owned by the `bucket` module. Partition = bucket and key, or bucket and `{tag}`.
    Value = 2,
    /// Documents (later).
    Document = 3,
    /// Code in chunks (later, where blobs cannot be files).
    Code = 4,
    /// Journals of events and transactions (later).
    Journal = 5,
    /// Tokens and leases.
    Control = 6,
}

/// The unit of atomicity, conditions and order. The name has 1 to 1,200 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The tenant.
    pub namespace: Name,
    /// What the partition is for.
    pub space: Space,
    /// Its name within the space.
    pub name: Bytes,
}

/// One row's address. `sort` has at most 1,200 bytes and may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The partition.
    pub partition: Partition,
    /// The row within it.
    pub sort: Bytes,
}

/// What a row's value was written by: opaque, equality only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version(pub [u8; 16]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes()))
    }
}

/// Chosen by the caller, unique per try (UUID version 7); makes an unknown outcome answerable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WriteId(pub Uuid);

impl WriteId {
    /// Returns a fresh id.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

/// Absolute wall time in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WallTime(pub u64);

/// A stored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place in the partition.
    pub sort: Bytes,
    /// Its value, at most 1 MiB.
    pub value: Bytes,
    /// The write that made it.
    pub version: Version,
    /// When it ceases to exist.
    pub expires: Option<WallTime>,
}

/// What must hold for a change to be made. An expired row counts as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Require {
    /// Nothing.
    Nothing,
    /// No row.
    Absent,
    /// A row.
    Present,
    /// A row of this version.
    Version(Version),
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a value.
    Put {
        /// Which row.
        sort: Bytes,
        /// Its new value, at most 1 MiB.
        value: Bytes,
        /// When it ceases to exist.
        expires: Option<WallTime>,
        /// What must hold.
        require: Require,
    },
    /// Removes a row.
    Delete {
        /// Which row.
        sort: Bytes,
        /// What must hold.
        require: Require,
    },
    /// Changes nothing, but must hold.
    Check {
        /// Which row.
        sort: Bytes,
        /// What must hold.
        require: Require,
    },
}

/// All or nothing within one partition: 1 to 1,000 changes, at most 2 MiB together.
/// Every condition is judged before any change is made. A sort may occur once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub partition: Partition,
    /// Which try.
    pub id: WriteId,
    /// What.
    pub changes: Vec<Change>,
    /// Whether the change log records it, in the same transaction.
    pub log: Logged,
}

/// What the change log keeps of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// Nothing.
    No,
    /// The keys that changed.
    Keys,
    /// The keys and their new values.
    Values,
}

/// A write that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The version that all rows of the write now carry.
    pub version: Version,
}

/// Where to go on, opaque, at most 4 KiB; survives restarts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(pub Bytes);

/// How much to read at most. Every reader gives both bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where to go on; `None` is the beginning.
    pub after: Option<Cursor>,
    /// Rows at most, 1 to 10,000.
    pub rows_max: u32,
    /// Bytes of values at most; at least one row comes all the same.
    pub bytes_max: u32,
}

/// A part of a result. It may be empty and still have a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Where to go on; `None` is the end.
    pub next: Option<Cursor>,
}

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Sees every write that was acknowledged before it began.
    Linearizable,
    /// May miss the newest writes of others, never one's own through this handle.
    Local,
}

/// What became of a write whose outcome was unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It took effect.
    Committed(Committed),
    /// It did not and never will.
    Never,
}

/// One recorded change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRecord {
    /// Where.
    pub partition: Partition,
    /// The write that did it.
    pub id: WriteId,
    /// The version its rows carry.
    pub version: Version,
    /// The rows that changed.
    pub rows: Vec<ChangedRow>,
}

/// One row of a recorded change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRow {
    /// Which row.
    pub sort: Bytes,
    /// Its new value; `None` if it was removed or the log keeps keys only.
    pub value: Option<Bytes>,
    /// Whether it was removed.
    pub removed: bool,
}

/// What a store can do beyond the common promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// `partitions` comes in byte order for every space, not only for [`Space::Value`].
    pub ordered_partitions: bool,
    /// The change log has one order over all partitions.
    pub global_sequence: bool,
    /// [`Store::transactions`] is there.
    pub transactions: bool,
}

/// The result of a store call.
pub type Fut<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Ordered, versioned values. `by` is when the caller stops waiting.
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns what this store can do beyond the common promise.
    fn abilities(&self) -> Abilities;

    /// Reads one row; an expired row is absent.
    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>>;

    /// Reads at most 1,000 rows, in the order of `keys`; not one snapshot unless `abilities().transactions`.
    ///
    /// # Errors
    /// `TooLarge` when the values of the answer have more than 8 MiB together
    /// ([`GET_MANY_BYTES_MAX`](crate::GET_MANY_BYTES_MAX)); a key named twice counts twice.
    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>>;

    /// Writes. Durable when it returns; linearizable per partition.
    ///
    /// # Errors
    /// `Conflict` carries the current row of the first condition that did not
    /// hold; `Unknown` carries the id, to be settled by [`fate`](Self::fate).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown.
    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed>;

    /// Settles an unknown outcome: after `Never` that write can no longer take effect.
    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate>;

    /// Reads rows of one partition in byte order of `sort`; an empty end means no end.
    /// Each slice is a consistent cut of the partition, the whole is not.
    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>>;

    /// Lists the names of partitions of a space by prefix, each existing one at least once;
    /// in byte order for [`Space::Value`], else only if `abilities().ordered_partitions`.
    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>>;

    /// Reads logged changes of a namespace after the cursor, at least once, in order per partition.
    /// A log has no end: `next` is always there, and an empty slice means to come back later.
    ///
    /// # Errors
    /// `Gone` when the cursor is older than what is kept.
    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>>;

    /// Returns the ability to commit writes of several partitions at once, where there is one.
    /// Callers name their way without it beside every use.
    fn transactions(&self) -> Option<&dyn Transactions>;
}

/// Several partitions in one commit; only the embedded store has it.
pub trait Transactions: Send + Sync {
    /// Commits all writes or none: each within the bounds of a [`Write`], at most 2,000 changes and
    /// 4 MiB together. Writes may share one id; `fate` then tells the version of the first.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn write_all(&self, writes: Vec<Write>, by: Instant) -> Fut<'_, Vec<Committed>>;
}

/// The default patience of callers that have no deadline of their own.
pub const PATIENCE: Duration = Duration::from_secs(5);
