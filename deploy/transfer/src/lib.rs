//! Moves everything from one store into another: the code of functions, their revisions and aliases, and state,
//! as NDJSON (one JSON document a line), the same whatever store it comes from and goes to.
//!
//! **Never knows** engines, files of configuration, HTTP.
//!
//! Invariants:
//! - Code comes before the revisions that need it, and is compared with its digest on both sides.
//! - The last line tells how many lines there were and the digest of them all: a file that was cut off, or changed,
//!   is told at its end, and says so; what was brought in before stays, and the same import again completes it.
//! - Each row is one condition: what is there already is never overwritten unasked.
//! - What belongs to running processes (tokens, leases, the journal of changes) stays behind.

mod export;
mod import;
mod line;
#[cfg(test)]
mod tests;

use faas_repo::RepoError;
use faas_store::StoreError;
use serde::Serialize;

pub use export::export;
pub use import::{Existing, LINE_BYTES_MAX, UnknownExisting, import};

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Rows of state, revisions and aliases.
    pub rows: u64,
    /// Rows that were left as they are, because there was one already.
    pub left: u64,
    /// Codes of functions.
    pub codes: u64,
}

/// Why not everything was moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The code repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The stream of lines failed.
    #[error("the file failed: {0}")]
    Io(#[from] std::io::Error),
    /// A line is none of ours.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A row is there already.
    #[error("{partition} in namespace {namespace} is there already")]
    Exists {
        /// Of which tenant.
        namespace: String,
        /// Which partition.
        partition: String,
    },
}
