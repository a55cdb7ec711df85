//! What the embedded store is like, for who runs it.

use serde::Serialize;

/// The file and the commits of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `embedded`.
    pub store: &'static str,
    /// Size of the file; `None` where it cannot be looked at.
    pub file_bytes: Option<u64>,
    /// Durable commits since the start, each of a group of writes.
    pub commits: u64,
    /// Writes in them.
    pub writes: u64,
    /// Mean time of a commit, in microseconds.
    pub commit_us_mean: Option<u64>,
    /// Records in the change log.
    pub log_records: u64,
    /// Bytes in the change log.
    pub log_bytes: u64,
}
