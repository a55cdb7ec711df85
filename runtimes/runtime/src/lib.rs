//! What a runtime can do: [`Runtime`] installs and prepares code, [`Prepared`]
//! starts instances, [`Instance`] invokes, stops and tells its usage; and what
//! every runtime gives its functions: [`logs`], and [`egress`], the way out.
//!
//! **Never knows** any engine, pool, route or store.

pub mod conformance;
pub mod egress;
pub mod logs;
pub mod scripted;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use faas_model::manifest::RuntimeKind;
use faas_model::{Body, CallId, Digest, FunctionName, FunctionSpec, Reason, RevisionId};
use futures_util::future::BoxFuture;

/// Code in the local cache of the code repository, digest verified on entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Digest of the bytes.
    pub digest: Digest,
    /// A file that holds exactly those bytes. Its name is made from the digest alone.
    pub path: PathBuf,
}

/// One revision to be run.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Whose revision.
    pub function: FunctionName,
    /// Which revision.
    pub revision: RevisionId,
    /// What it is, needs and may do.
    pub spec: Arc<FunctionSpec>,
    /// Its code, installed before a start.
    pub code: Digest,
    /// Where its output goes.
    pub logs: logs::LogWriter,
}

/// One call of an instance.
#[derive(Debug)]
pub struct Call {
    /// Names the call.
    pub id: CallId,
    /// The event, as [`Invocation`] carries it, platform headers included.
    ///
    /// [`Invocation`]: https://docs.rs/faas-invoke
    pub request: http::Request<Body>,
}

/// A started instance, and what its start cost.
#[derive(Debug)]
pub struct Started {
    /// The instance, ready for calls.
    pub instance: Arc<dyn Instance>,
    /// The named phases of the cold start, in order.
    pub phases: Vec<(&'static str, Duration)>,
}

/// What an instance holds while idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, estimated, in bytes.
    pub memory_bytes: u64,
}

/// Why code was refused or an instance failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct RuntimeError {
    /// One of `unprocessable` (install), `start_failed`, `crashed`, `bad_reply`,
    /// `memory_limit`, `cpu_limit`, `run_timeout`, `queue_full`, `disk_full`, `internal`.
    pub reason: Reason,
    /// What failed. Never guest output, a path or a host error's text.
    pub detail: String,
    /// Whether it would not fail if idle instances gave back what they hold.
    pub crowded: bool,
}

impl RuntimeError {
    /// Returns an error.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), crowded: false }
    }

    /// Returns the refusal of a start for which idle instances leave no room.
    pub fn crowded(detail: impl Into<String>) -> Self {
        Self { crowded: true, ..Self::new(Reason::QueueFull, detail) }
    }
}

/// Runs one kind of code.
pub trait Runtime: Send + Sync + fmt::Debug {
    /// Returns which kind.
    fn kind(&self) -> RuntimeKind;

    /// Checks that the code is of this kind and offers the contract, and makes
    /// what starts need (compiled code). Idempotent; bounded in time and memory.
    ///
    /// # Errors
    /// `unprocessable` names what is wrong with the code.
    fn install<'a>(&'a self, code: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Returns whether what [`install`](Self::install) made of the code is there, so that starts need no
    /// more than it. Cheap: one look at a folder at most.
    fn installed(&self, code: &Digest) -> bool;

    /// Removes what [`install`](Self::install) made, once no revision uses the code.
    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()>;

    /// Makes a revision ready to be started. Cheap: nothing is loaded.
    ///
    /// # Errors
    /// `start_failed` when the unit cannot be run here.
    fn prepare(&self, unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError>;
}

/// A revision that can be started.
pub trait Prepared: Send + Sync + fmt::Debug {
    /// Starts an instance: loads the installed code, or shares what is loaded already.
    ///
    /// # Errors
    /// `start_failed`, also when the code is not installed; `queue_full` when what all calls share is
    /// used up, `crowded` when idle instances hold it; the caller bounds the time.
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>>;
}

/// Something that answers calls.
pub trait Instance: Send + Sync + fmt::Debug {
    /// Runs one call up to the head of its answer; the body goes on as it is polled.
    ///
    /// # Errors
    /// `crashed`, `bad_reply`, `memory_limit`, `cpu_limit`; `queue_full` when what all calls share is used up.
    ///
    /// # Cancel safety
    /// Dropping the future, or the body of the answer, ends the call.
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<http::Response<Body>, RuntimeError>>;

    /// Gives back what the instance holds. Calls still running are cut.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Returns what the instance holds while idle.
    fn usage(&self) -> Usage;

    /// Returns whether the instance can take no further call and must be replaced.
    fn broken(&self) -> bool {
        false
    }
}
