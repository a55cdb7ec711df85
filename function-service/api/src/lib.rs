//! The seam between triggers and the function service: [`Dispatch`] takes an
//! [`Invocation`] and gives a [`Reply`] or an [`InvokeError`] of a closed kind.
//!
//! **Never knows** pools, runtimes, HTTP listeners or brokers.
//!
//! Invariant: each dispatch ends exactly once; dropping its future, or the body
//! of its reply, cancels the call and gives back what it held.

pub mod conformance;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use faas_model::{Body, CallId, Catalogue, Component, FunctionName, Name, Problem, Reason, RevisionId, TriggerKind};
use futures_util::future::BoxFuture;

/// One try to run a function.
#[derive(Debug)]
pub struct Invocation {
    /// Names this try in answers, logs and traces.
    pub call: CallId,
    /// Which function.
    pub function: FunctionName,
    /// Which alias of it; `live` for triggers.
    pub alias: Name,
    /// What made the event.
    pub trigger: TriggerKind,
    /// The event as an HTTP request in CloudEvents binary mode. Its URI is in
    /// absolute form, `http://NAME.NAMESPACE.faas.internal/path?query`.
    pub request: http::Request<Body>,
}

/// What a function answered.
#[derive(Debug)]
pub struct Reply {
    /// The answer. Its body holds the call's place in the pool until it ends or is dropped.
    pub response: http::Response<Body>,
    /// How long each phase took until the head of the answer.
    pub timings: Timings,
    /// The revision that answered.
    pub revision: RevisionId,
}

/// How long each phase of a call took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timings {
    /// From arrival to assignment to an instance, cold start included.
    pub queue: Duration,
    /// The phases of the cold start this call waited for; empty when warm.
    pub cold: Vec<(&'static str, Duration)>,
    /// From assignment to the head of the answer.
    pub run: Duration,
}

/// Why a dispatch gave no reply.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{component:?} {reason}: {detail}")]
pub struct InvokeError {
    /// Why; says the status and whether a retry makes sense.
    pub reason: Reason,
    /// Who speaks.
    pub component: Component,
    /// What failed, with which value and which bound. Never guest output or a path.
    pub detail: String,
    /// How long each phase took until the failure.
    pub timings: Timings,
}

impl InvokeError {
    /// Returns an error without timings.
    pub fn new(component: Component, reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, component, detail: detail.into(), timings: Timings::default() }
    }

    /// Returns the error as a problem document about `call`.
    #[must_use]
    pub fn problem(&self, call: CallId) -> Problem {
        Problem::new(self.component, self.reason, self.detail.clone()).with_call(call)
    }
}

/// Turns an invocation into a reply.
pub trait Dispatch: Send + Sync + fmt::Debug {
    /// Runs the function once.
    ///
    /// # Errors
    /// [`InvokeError`] when the platform refused or the function gave no answer.
    /// A function's own 4xx or 5xx is a [`Reply`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>>;
}

/// The deployed functions, replaced whole at every change.
pub type CatalogueWatch = tokio::sync::watch::Receiver<Arc<Catalogue>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_a_problem_about_its_call() {
        let call = CallId::fresh();
        let error = InvokeError::new(Component::Queue, Reason::QueueFull, "queue.depth = 4 calls wait already");
        assert_eq!(error.to_string(), "Queue queue_full: queue.depth = 4 calls wait already");
        let problem = error.problem(call);
        assert_eq!(
            (problem.component, problem.reason, problem.call),
            (Component::Queue, Reason::QueueFull, Some(call))
        );
    }
}
