//! A runtime whose behaviour is a script, for tests of everything above the seam.
//!
//! It runs on tokio's clock, so paused time moves it. [`Scripted`] is a handle:
//! clones share the script and the counters.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use faas_model::manifest::RuntimeKind;
use faas_model::{Body, BodyError, Digest, Reason};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::{Semaphore, watch};

use crate::{Call, Code, Instance, Prepared, Runtime, RuntimeError, Started, Unit, Usage};

/// What the runtime does from now on.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// How an install fails, if it does.
    pub install_failure: Option<RuntimeError>,
    /// How long an install takes.
    pub install_delay: Duration,
    /// How long a start takes.
    pub start_delay: Duration,
    /// How a start fails, if it does; after its delay.
    pub start_failure: Option<RuntimeError>,
    /// Instances that are alive at once at most; a start beyond them is refused as crowded.
    pub instances_max: Option<u64>,
    /// How long a call takes before it acts.
    pub call_delay: Duration,
    /// What a call does.
    pub act: Act,
}

/// What a call does.
#[derive(Debug, Clone, Default)]
pub enum Act {
    /// As the path says: the routes of the [conformance suite](crate::conformance).
    #[default]
    Routes,
    /// Answers 200 with a body that comes in chunks, `pause` before each.
    Reply {
        /// The parts of the body.
        chunks: Vec<Bytes>,
        /// The pause before each part.
        pause: Duration,
    },
    /// Answers with a status and no body.
    Status(http::StatusCode),
    /// Answers with the request's body.
    Echo,
    /// Fails.
    Fail(RuntimeError),
    /// Sends the head and one chunk, then fails.
    Break,
    /// Waits for [`Scripted::release`], then answers 200.
    Wait,
    /// Never answers.
    Hang,
}

/// A runtime that does what its script says, and counts.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    gate: Semaphore,
    installed: Mutex<HashSet<Digest>>,
    installs: AtomicU64,
    starts: AtomicU64,
    alive: AtomicU64,
    stops: AtomicU64,
    calls: AtomicU64,
    running: AtomicU64,
    running_most: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            script: Mutex::default(),
            gate: Semaphore::new(0),
            installed: Mutex::default(),
            installs: zero(),
            starts: zero(),
            alive: zero(),
            stops: zero(),
            calls: zero(),
            running: zero(),
            running_most: zero(),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("calls", &self.calls).field("running", &self.running).finish_non_exhaustive()
    }
}

impl Scripted {
    /// Returns a runtime that follows `script`.
    #[must_use]
    pub fn new(script: Script) -> Self {
        let scripted = Self::default();
        scripted.follow(script);
        scripted
    }

    /// Replaces the script; what has begun goes on with the former one.
    pub fn follow(&self, script: Script) {
        *self.state.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// Lets `calls` calls of [`Act::Wait`] answer.
    pub fn release(&self, calls: usize) {
        self.state.gate.add_permits(calls);
    }

    /// Returns how many installs there were.
    #[must_use]
    pub fn installs(&self) -> u64 {
        self.state.installs.load(Ordering::SeqCst)
    }

    /// Returns how many starts were tried, failed ones included.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.state.starts.load(Ordering::SeqCst)
    }

    /// Returns how many instances were stopped.
    #[must_use]
    pub fn stops(&self) -> u64 {
        self.state.stops.load(Ordering::SeqCst)
    }

    /// Returns how many calls were begun.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Returns how many calls run now, streaming bodies included.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.state.running.load(Ordering::SeqCst)
    }

    /// Returns how many calls ran at once at most.
    #[must_use]
    pub fn running_most(&self) -> u64 {
        self.state.running_most.load(Ordering::SeqCst)
    }
}

impl State {
    fn script(&self) -> Script {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn installed(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.installed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for Scripted {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Wasm
    }

    fn install<'a>(&'a self, code: &'a Code) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            self.state.installs.fetch_add(1, Ordering::SeqCst);
            let script = self.state.script();
            if !script.install_delay.is_zero() {
                tokio::time::sleep(script.install_delay).await;
            }
            script.install_failure.map_or(Ok(()), Err)?;
            self.state.installed().insert(code.digest);
            Ok(())
        })
    }

    fn installed(&self, code: &Digest) -> bool {
        self.state.installed().contains(code)
    }

    fn forget<'a>(&'a self, code: &'a Digest) -> BoxFuture<'a, ()> {
        self.state.installed().remove(code);
        Box::pin(std::future::ready(()))
    }

    fn prepare(&self, _unit: Unit) -> Result<Arc<dyn Prepared>, RuntimeError> {
        Ok(Arc::new(ScriptedRevision { state: Arc::clone(&self.state) }))
    }
}

#[derive(Debug)]
struct ScriptedRevision {
    state: Arc<State>,
}

impl Prepared for ScriptedRevision {
    fn start(&self) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        Box::pin(async move {
            self.state.starts.fetch_add(1, Ordering::SeqCst);
            let script = self.state.script();
            tokio::time::sleep(script.start_delay).await;
            if let Some(failure) = script.start_failure {
                return Err(failure);
            }
            let max = script.instances_max.unwrap_or(u64::MAX);
            let room = |alive| (alive < max).then_some(alive + 1);
            if self.state.alive.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_err() {
                return Err(RuntimeError::crowded(format!("all {max} instances are alive")));
            }
            let instance = ScriptedInstance {
                state: Arc::clone(&self.state),
                stopped: watch::Sender::new(false),
                counted: AtomicBool::new(false),
            };
            Ok(Started { instance: Arc::new(instance), phases: vec![("script", script.start_delay)] })
        })
    }
}

#[derive(Debug)]
struct ScriptedInstance {
    state: Arc<State>,
    stopped: watch::Sender<bool>,
    counted: AtomicBool,
}

/// Counts a call as running until it is dropped.
struct Running(Arc<State>);

impl Running {
    fn new(state: &Arc<State>) -> Self {
        state.calls.fetch_add(1, Ordering::SeqCst);
        let now = state.running.fetch_add(1, Ordering::SeqCst) + 1;
        state.running_most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Instance for ScriptedInstance {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<http::Response<Body>, RuntimeError>> {
        let running = Running::new(&self.state);
        Box::pin(async move {
            let script = self.state.script();
            let mut stopped = self.stopped.subscribe();
            let cut = stopped.clone();
            let work = async {
                tokio::time::sleep(script.call_delay).await;
                let act = if matches!(script.act, Act::Routes) { route(call.request.uri()) } else { script.act };
                perform(act, call, &self.state, running, cut).await
            };
            tokio::select! {
                biased;
                reply = work => reply,
                _ = stopped.wait_for(|s| *s) => Err(RuntimeError::new(Reason::Crashed, "the instance was stopped")),
            }
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.stopped.send_replace(true);
            if !self.counted.swap(true, Ordering::SeqCst) {
                self.state.stops.fetch_add(1, Ordering::SeqCst);
                self.state.alive.fetch_sub(1, Ordering::SeqCst);
            }
        })
    }

    fn usage(&self) -> Usage {
        Usage { memory_bytes: 1 << 20 }
    }
}

fn route(uri: &http::Uri) -> Act {
    match uri.path() {
        "/hello" => Act::Reply { chunks: vec![Bytes::from_static(b"hello")], pause: Duration::ZERO },
        "/echo" => Act::Echo,
        "/ticks" => {
            let chunks = (0..3).map(|n| Bytes::from(format!("tick {n}\n"))).collect();
            Act::Reply { chunks, pause: Duration::from_millis(20) }
        }
        "/trap" => Act::Fail(RuntimeError::new(Reason::Crashed, "the script trapped")),
        "/nothing" => Act::Fail(RuntimeError::new(Reason::BadReply, "the script gave no answer")),
        "/broken" => Act::Break,
        "/never" => Act::Hang,
        _ => Act::Status(http::StatusCode::NOT_FOUND),
    }
}

async fn perform(
    act: Act,
    call: Call,
    state: &Arc<State>,
    running: Running,
    cut: watch::Receiver<bool>,
) -> Result<http::Response<Body>, RuntimeError> {
    match act {
        Act::Reply { chunks, pause } => {
            Ok(http::Response::new(chunked(chunks.into_iter().map(Ok).collect(), pause, running, cut)))
        }
        Act::Status(status) => {
            let mut response = http::Response::new(Body::Empty);
            *response.status_mut() = status;
            Ok(response)
        }
        Act::Echo => {
            let bytes = call.request.into_body().collect(1 << 30).await;
            let bytes = bytes.map_err(|_| RuntimeError::new(Reason::Crashed, "the request's body broke off"))?;
            Ok(http::Response::new(Body::from(bytes)))
        }
        Act::Fail(failure) => Err(failure),
        Act::Break => {
            let broken = BodyError::Function("the script ended".into());
            let chunks = vec![Ok(Bytes::from_static(b"part")), Err(broken)];
            Ok(http::Response::new(chunked(chunks, Duration::ZERO, running, cut)))
        }
        Act::Wait => {
            state.gate.acquire().await.expect("the gate is never closed").forget();
            Ok(http::Response::new(Body::Empty))
        }
        Act::Routes | Act::Hang => std::future::pending().await,
    }
}

/// A body of chunks with a pause before each; the call runs until it ends or is dropped.
fn chunked(
    chunks: Vec<Result<Bytes, BodyError>>,
    pause: Duration,
    running: Running,
    cut: watch::Receiver<bool>,
) -> Body {
    let chunks = stream::unfold((chunks.into_iter(), running, cut), move |(mut chunks, running, mut cut)| async move {
        let next = chunks.next()?;
        let frame = tokio::select! {
            biased;
            _ = cut.wait_for(|s| *s) => Err(BodyError::Function("the instance was stopped".into())),
            () = tokio::time::sleep(pause) => next.map(Frame::data),
        };
        if frame.is_err() {
            chunks = Vec::new().into_iter();
        }
        Some((frame, (chunks, running, cut)))
    });
    Body::stream(StreamBody::new(chunks))
}

#[cfg(test)]
mod tests;
