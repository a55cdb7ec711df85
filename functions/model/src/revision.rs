//! The record of a revision: immutable once published.

use serde::{Deserialize, Serialize};

use crate::{Digest, FunctionName, FunctionSpec, RevisionId};

/// One immutable revision of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Digest of the canonical spec and the code.
    pub id: RevisionId,
    /// Whose revision it is.
    pub function: FunctionName,
    /// Its number within the function, from 1, in order of first publication.
    pub version: u64,
    /// The code's digest.
    pub code: Digest,
    /// The code's size.
    pub code_bytes: u64,
    /// When it was published, Unix milliseconds.
    pub created_ms: u64,
    /// What it is.
    pub spec: FunctionSpec,
}
