//! Turns an invocation into a reply by reusing a warm instance or starting one;
//! deploys, scales and releases.
//!
//! **Never knows** HTTP triggers, AMQP, Docker, wasmtime or databases.
//!
//! Invariants, checked by a property test and counted in production by
//! `faas_invariant_violations_total`:
//! - Each dispatch ends exactly once, not later than its deadline; a dropped future cancels.
//! - Busy calls of an instance never exceed `scale.concurrency`, instances of a
//!   generation never `scale.max`, waiting calls never `queue.depth`.
//! - While calls wait, an instance runs, starts, or may be started after a pause.
//! - An instance that is idle past `scale.idle` is stopped; at rest with
//!   `scale.min = 0` nothing is left, no task either.
//! - One install of a code runs at a time and outlives the start that waits for it.
//! - `live` moves only after the new revision compiled and answered its probe.
//! - A change of another process is shown once its code is compiled here, and never after a later one.

mod call;
mod change;
mod config;
mod deploy;
mod error;
pub mod failpoints;
mod flight;
mod follow;
mod heard;
mod install;
mod lane;
mod locks;
mod meters;
mod pool;
mod registry;
mod service;
mod target;
mod tasks;
mod tended;
#[cfg(test)]
mod tests;
mod view;

pub use config::Config;
pub use error::{DeployError, DeployPhase, OpenError, ServiceError};
pub use faas_repo::{Expect, RevisionRef, Upload};
pub use service::FunctionService;
pub use view::{AliasView, Deploy, Deployed, Description, Pointed, PoolStats, Summary};
