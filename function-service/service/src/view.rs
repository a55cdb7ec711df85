//! What goes into control operations and what comes out, as plain values.

use std::collections::BTreeMap;
use std::time::Duration;

use faas_model::manifest::RuntimeKind;
use faas_model::{AliasSettings, FunctionName, FunctionSpec, Name, Revision, RevisionId};
use faas_repo::{Expect, Upload};
use serde::Serialize;

use crate::DeployPhase;

/// A deploy to be made.
#[derive(Debug)]
pub struct Deploy {
    /// Which function.
    pub function: FunctionName,
    /// What the revision is.
    pub spec: FunctionSpec,
    /// What `live` adds to it.
    pub settings: AliasSettings,
    /// The code, written whole.
    pub upload: Upload,
    /// Where `live` must point for the deploy to be made.
    pub expected: Expect,
}

/// A deploy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The revision that `live` points to now.
    pub revision: RevisionId,
    /// Its number within the function.
    pub version: u64,
    /// Whether the revision is new.
    pub created: bool,
    /// Whether `live` pointed elsewhere before.
    pub moved: bool,
    /// Where it pointed before, if it moved.
    pub previous: Option<RevisionId>,
    /// How long each phase took, in order; skipped phases are absent.
    pub timings: Vec<(DeployPhase, Duration)>,
}

/// An alias that was pointed at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pointed {
    /// Which alias.
    pub alias: Name,
    /// Where it points now.
    pub revision: RevisionId,
    /// That revision's number within the function.
    pub version: u64,
    /// Where it pointed before, if it moved.
    pub previous: Option<RevisionId>,
}

/// The state of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PoolStats {
    /// Instances that take or finish calls.
    pub instances: u32,
    /// Instances being started.
    pub starting: u32,
    /// Calls running.
    pub busy: u32,
    /// Calls waiting.
    pub waiting: u32,
    /// Starts that succeeded since the process began.
    pub starts: u64,
    /// Starts that failed since the process began.
    pub start_failures: u64,
    /// Whether starts pause because they keep failing.
    pub crash_loop: bool,
    /// Resident memory of the idle instances, estimated, in bytes.
    pub memory_bytes: u64,
}

/// One alias of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AliasView {
    /// Where it points.
    pub revision: RevisionId,
    /// That revision's number within the function.
    pub version: u64,
    /// What it adds to the revision.
    pub settings: AliasSettings,
    /// The target of a rollback.
    pub previous: Option<RevisionId>,
    /// When it was changed, Unix milliseconds.
    pub changed_ms: u64,
    /// Its pool now.
    pub pool: PoolStats,
}

/// A function in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Which function.
    pub function: FunctionName,
    /// The revision that `live` points to, its spec included.
    pub live: Revision,
    /// Every alias, `live` included.
    pub aliases: BTreeMap<Name, AliasView>,
}

/// A function in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Which function.
    pub function: FunctionName,
    /// The revision that `live` points to.
    pub revision: RevisionId,
    /// Its number within the function.
    pub version: u64,
    /// What runs it.
    pub runtime: RuntimeKind,
    /// When `live` was changed, Unix milliseconds.
    pub changed_ms: u64,
    /// The pool of `live` now.
    pub pool: PoolStats,
}
