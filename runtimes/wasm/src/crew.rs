//! One store for several calls at once: a task drives it, callers hand it their
//! requests and take the answers.
//!
//! A guest's task cannot be ended from outside without its store. A store that
//! holds too many calls that were left, or took as many as it may, takes no
//! further one: the next call has a new store, and the old one goes when its
//! last caller has left.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use faas_model::{Body, CallId, Reason};
use faas_runtime::RuntimeError;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p3::bindings::Service;

use crate::call::{Failed, Guest, Head, Live, answer_03};
use crate::contract::Exports;
use crate::failure::{self, Ended};
use crate::instance::{Calls, Cut, Linked};
use crate::meter::Meter;
use crate::runtime::Revision;
use crate::state::State;

/// Calls that were left unfinished and may still run in a store that takes calls.
const LEFT_MAX: u32 = 32;
/// Requests that wait for their store to take them in at most: the bound of `scale.concurrency`.
const INBOX_MAX: usize = 1000;

/// The store that takes the calls of an instance, and its driver.
#[derive(Default)]
pub(crate) struct Crew {
    state: Mutex<CrewState>,
}

#[derive(Default)]
struct CrewState {
    /// The store that was made to try the component; the first driver takes it.
    tried: Option<Live>,
    driver: Option<Driver>,
    stopped: bool,
}

struct Driver {
    inbox: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
    meter: Arc<Meter>,
}

/// A request for a store.
struct Ask {
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
}

/// What a driver and its callers know of each other.
struct Shared {
    failed: Failed,
    /// Whether the driver ended.
    over: watch::Sender<bool>,
    retired: AtomicBool,
    /// Calls whose callers are there.
    present: AtomicU32,
    /// Calls that were left since the store was last seen without work.
    left: AtomicU32,
    taken: AtomicU32,
    /// Tells the driver that it was retired, or that a caller left.
    changed: Notify,
}

/// A caller's place at a store, from the request to the end of the answer.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    whole: bool,
}

/// What a caller waits with.
pub(crate) struct Asked {
    pub presence: Presence,
    pub head: oneshot::Receiver<Head>,
    pub failed: Failed,
    pub meter: Arc<Meter>,
}

impl Crew {
    pub(crate) fn new(tried: Option<Live>) -> Self {
        Self { state: Mutex::new(CrewState { tried, ..CrewState::default() }) }
    }

    /// Hands a request to the store that takes calls, or to a new one.
    ///
    /// # Errors
    /// `queue_full` when too many wait for it; `crashed` once the instance is stopped.
    pub(crate) fn ask(
        &self,
        revision: &Arc<Revision>,
        linked: &Arc<Linked>,
        calls: &Arc<Calls>,
        request: http::Request<Body>,
    ) -> Result<Asked, RuntimeError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Err(failure::cut());
        }
        if state.driver.as_ref().is_none_or(|driver| !driver.takes_calls()) {
            let tried = state.tried.take();
            state.driver = Some(Driver::spawn(revision, linked, calls, tried)?);
        }
        let Some(driver) = &state.driver else { return Err(failure::cut()) };
        driver.ask(request, revision.engines.config.reuse_calls_max.max(1))
    }

    /// Lets go of the store; calls are cut by whoever has their tasks.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = CrewState { stopped: true, ..CrewState::default() };
    }
}

impl Driver {
    fn spawn(
        revision: &Arc<Revision>,
        linked: &Arc<Linked>,
        calls: &Arc<Calls>,
        tried: Option<Live>,
    ) -> Result<Self, RuntimeError> {
        // Output of calls that run side by side cannot be told apart: it goes by the store.
        let (log, _) = revision.attend(CallId::fresh());
        let meter = Arc::new(revision.shared_meter());
        let (inbox, asks) = mpsc::channel(INBOX_MAX);
        let shared = Arc::new(Shared::new());
        let (own, linked, metered, known) =
            (Arc::clone(revision), Arc::clone(linked), Arc::clone(&meter), Arc::clone(&shared));
        let work = async move {
            let mut over = Over { shared: known, done: false };
            let live = match tried {
                Some(mut live) => {
                    live.store.data_mut().begin(&log, &metered, own.until());
                    Ok(live)
                }
                None => own.live(&log, &metered, &linked).await,
            };
            let outcome = match live {
                Ok(live) => drive(live, asks, &mut over, &metered, &log, &own).await,
                Err(failure) => Err(failure),
            };
            over.tell(&outcome);
            outcome
        };
        let work: BoxFuture<'static, Ended> = Box::pin(work);
        let (go, gate) = oneshot::channel();
        let (ramp, by) = (Arc::clone(&revision.ramp), Arc::clone(&meter));
        let mut guest = Guest::Here(work);
        let task = tokio::spawn(async move {
            // Not before the instance can cut it.
            let Ok(entered) = gate.await else { return };
            // What went wrong was told to the callers and the log.
            let _ended = poll_fn(|cx| guest.poll(&by, &ramp, cx)).await;
            drop(entered);
        });
        let entered = calls.enter(Cut::Task(task.abort_handle())).ok_or_else(failure::cut)?;
        go.send(entered).map_err(|_| failure::cut())?;
        Ok(Self { inbox, shared, meter })
    }

    fn takes_calls(&self) -> bool {
        !self.shared.retired.load(Ordering::Relaxed) && !self.inbox.is_closed()
    }

    fn ask(&self, request: http::Request<Body>, calls_max: u32) -> Result<Asked, RuntimeError> {
        let (head, receiver) = oneshot::channel();
        let presence = Presence::new(&self.shared);
        self.inbox.try_send(Ask { request, head }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                RuntimeError::new(Reason::QueueFull, format!("{INBOX_MAX} calls wait for the instance already"))
            }
            mpsc::error::TrySendError::Closed(_) => failure::cut(),
        })?;
        if self.shared.taken.fetch_add(1, Ordering::Relaxed) + 1 >= calls_max {
            self.shared.retire();
        }
        let failed = Arc::clone(&self.shared.failed);
        Ok(Asked { presence, head: receiver, failed, meter: Arc::clone(&self.meter) })
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            failed: Failed::default(),
            over: watch::Sender::new(false),
            retired: AtomicBool::new(false),
            present: AtomicU32::new(0),
            left: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            changed: Notify::new(),
        }
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Resolves when the store takes no calls and has no callers.
    async fn deserted(&self) {
        loop {
            let changed = self.changed.notified();
            // SeqCst: a caller that leaves counts itself out before it tells.
            if self.retired.load(Ordering::SeqCst) && self.present.load(Ordering::SeqCst) == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Presence {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.present.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared), whole: false }
    }

    /// Ends the call: its answer was taken whole.
    pub(crate) fn end(mut self) {
        self.whole = true;
    }

    /// Returns what the end of the driver says, once it comes.
    pub(crate) fn outlived(&self) -> BoxFuture<'static, RuntimeError> {
        let (mut over, failed) = (self.shared.over.subscribe(), Arc::clone(&self.shared.failed));
        Box::pin(async move {
            // An error would mean that it is over, too.
            over.wait_for(|over| *over).await.ok();
            failed.get().cloned().unwrap_or_else(failure::no_answer)
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.whole && self.shared.left.fetch_add(1, Ordering::Relaxed) + 1 >= LEFT_MAX {
            self.shared.retire();
        }
        if self.shared.present.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.changed.notify_one();
        }
    }
}

/// Sees to it that callers learn how a driver ended, also one that is cut.
struct Over {
    shared: Arc<Shared>,
    done: bool,
}

impl Over {
    fn tell(&mut self, outcome: &Ended) {
        self.done = true;
        // Before the callers learn of it: what they call next needs another store.
        self.shared.retired.store(true, Ordering::SeqCst);
        if let Err(failure) = outcome {
            self.shared.failed.set(failure.clone()).ok();
        }
        self.shared.over.send_replace(true);
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if !self.done {
            self.tell(&Err(failure::cut()));
        }
    }
}

/// Runs a store until it is deserted or fails.
async fn drive(
    mut live: Live,
    mut asks: mpsc::Receiver<Ask>,
    over: &mut Over,
    meter: &Meter,
    log: &faas_runtime::logs::CallLog,
    revision: &Revision,
) -> Ended {
    let Exports::Handler03(service) = &live.exports else { return Err(failure::cut()) };
    let shared = Arc::clone(&over.shared);
    live.store.set_epoch_deadline(1);
    let outcome = {
        let work =
            live.store.run_concurrent(async |accessor| serve(accessor, service, &mut asks, &shared, meter).await);
        let after = revision.unit.spec.timeout.run.duration();
        let alone = deserted_for(&shared, after);
        match select(std::pin::pin!(work), std::pin::pin!(alone)).await {
            Either::Left((ended, _)) => ended.and_then(|ended| ended),
            Either::Right(((), _)) => Ok(()),
        }
    };
    let outcome = outcome.or_else(|error| live.ended(&error, log, &revision.unit.spec.limits));
    // Told before the store's end closes the bodies.
    over.tell(&outcome);
    asks.close();
    while let Ok(ask) = asks.try_recv() {
        // The guest never saw it; the caller may have left.
        let detail = "the instance ended before the call began";
        ask.head.send(Err(RuntimeError::new(Reason::QueueFull, detail))).ok();
    }
    outcome
}

/// Resolves when guests have had their time for work after the last answer.
async fn deserted_for(shared: &Shared, after: Duration) {
    shared.deserted().await;
    tokio::time::sleep(after).await;
}

/// Takes requests in and lets the guest answer them, side by side.
async fn serve(
    accessor: &Accessor<State>,
    service: &Service,
    asks: &mut mpsc::Receiver<Ask>,
    shared: &Shared,
    meter: &Meter,
) -> wasmtime::Result<()> {
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx| {
        loop {
            match calls.poll_next_unpin(cx) {
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(()))) => {
                    meter.progress(calls.len());
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if shared.retired.load(Ordering::Relaxed) {
                // What was sent before is taken in still.
                asks.close();
            }
            match asks.poll_recv(cx) {
                Poll::Ready(Some(ask)) => {
                    calls.push(answer(accessor, service, ask));
                    meter.progress(calls.len());
                }
                Poll::Ready(None) if calls.is_empty() => return idle(accessor, shared, cx).map(Ok),
                Poll::Ready(None) => return Poll::Pending,
                Poll::Pending => {
                    if calls.is_empty() {
                        // Ready or not, more may come.
                        let _idle = idle(accessor, shared, cx);
                    }
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Tells whether the guest has nothing to do.
fn idle(accessor: &Accessor<State>, shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
    let idle = accessor.poll_no_interesting_tasks(cx);
    if idle.is_ready() {
        shared.left.store(0, Ordering::Relaxed);
    }
    idle
}

async fn answer(accessor: &Accessor<State>, service: &Service, ask: Ask) -> wasmtime::Result<()> {
    let answer = answer_03(accessor, service, ask.request).await?;
    // The caller may have left.
    ask.head.send(answer).ok();
    Ok(())
}
