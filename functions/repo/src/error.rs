//! The closed set of what can go wrong in a code repository.

use std::time::Duration;

use faas_model::{FunctionName, Reason, RevisionId};
use faas_store::StoreError;

/// Why a repository call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepoError {
    /// There is no such function, alias, revision or code.
    #[error("there is no {0}")]
    NotFound(String),
    /// The alias does not point where the caller expected.
    #[error("the alias points to {}, not where the caller expected", shown(current))]
    Conflict {
        /// Where it points.
        current: Option<RevisionId>,
    },
    /// Somebody else changes a function, and did not end in time.
    #[error("function {function} is being changed and was not done within repo.turn_wait = {} ms", waited.as_millis())]
    Busy {
        /// The one that is being changed.
        function: FunctionName,
        /// For how long this change waited.
        waited: Duration,
    },
    /// The code was kept so long ago that it may be gone.
    #[error("the code was uploaded more than {} minutes ago: deploy it again", after.as_secs() / 60)]
    Late {
        /// The bound.
        after: Duration,
    },
    /// Several revisions begin like that.
    #[error("revision {0:?} is ambiguous: give more digits")]
    Ambiguous(String),
    /// Code or a number of things is over its bound.
    #[error("{what} is over its limit of {max}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file system failed.
    #[error("the code folder failed: {0}")]
    Disk(std::io::ErrorKind),
    /// Stored bytes do not read back.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
}

fn shown(current: &Option<RevisionId>) -> String {
    current.map_or_else(|| "nothing".into(), |id| id.0.short())
}

impl RepoError {
    /// Returns the public reason, which says the status and whether a retry makes sense.
    #[must_use]
    pub fn reason(&self) -> Reason {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::NotFound(_) => Reason::NotFound,
            Self::Conflict { .. } => Reason::PreconditionFailed,
            Self::Ambiguous(_) | Self::Store(StoreError::Conflict(_)) => Reason::Conflict,
            Self::TooLarge { .. } | Self::Store(StoreError::TooLarge { .. }) => Reason::BodyTooLarge,
            Self::Disk(StorageFull | QuotaExceeded) | Self::Store(StoreError::Full) => Reason::DiskFull,
            Self::Store(StoreError::Unknown(_)) => Reason::OutcomeUnknown,
            Self::Busy { .. }
            | Self::Late { .. }
            | Self::Store(StoreError::Unavailable { .. } | StoreError::Deadline) => Reason::StoreUnavailable,
            Self::Disk(_) | Self::Corrupt(_) | Self::Store(_) => Reason::Internal,
        }
    }
}

impl From<std::io::Error> for RepoError {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error.kind())
    }
}
