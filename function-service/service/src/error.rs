//! Why a control operation failed.

use std::fmt;

use faas_model::Reason;
use faas_repo::RepoError;
use faas_runtime::RuntimeError;
use serde::{Deserialize, Serialize};

/// Why a control operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct ServiceError {
    /// Why; says the status and whether a retry makes sense.
    pub reason: Reason,
    /// What failed and with which value, for people.
    pub detail: String,
}

/// Why the service did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The repository failed.
    #[error("the code repository cannot be read: {0}")]
    Repo(#[from] RepoError),
    /// Two runtimes say they are of the same kind.
    #[error("there are two runtimes of one kind: {0}")]
    Runtimes(String),
}

/// A step of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployPhase {
    /// Bounds of the manifest, its routes and its runtime.
    Check,
    /// The code on its way to disk.
    Upload,
    /// The code's contract, and its compilation.
    Compile,
    /// A first instance, and its answer on the probe path.
    Probe,
    /// The records.
    Publish,
}

impl DeployPhase {
    /// Returns the stable text of the phase.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Upload => "upload",
            Self::Compile => "compile",
            Self::Probe => "probe",
            Self::Publish => "publish",
        }
    }
}

impl fmt::Display for DeployPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a deploy failed, and in which phase. Nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("deploy failed in phase {phase}: {problem}")]
pub struct DeployError {
    /// Which phase.
    pub phase: DeployPhase,
    /// Why.
    pub problem: ServiceError,
}

impl ServiceError {
    /// Returns an error.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(crate) fn at(self, phase: DeployPhase) -> DeployError {
        DeployError { phase, problem: self }
    }
}

impl From<RepoError> for ServiceError {
    fn from(error: RepoError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

impl From<RuntimeError> for ServiceError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.reason, error.detail)
    }
}
