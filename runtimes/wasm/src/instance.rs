//! An instance: a loaded, linked revision that answers calls, each in a fresh store.

use std::collections::HashMap;
use std::fmt;
use std::future::{Pending, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use faas_model::Body;
use faas_runtime::{Call, Instance, RuntimeError, Usage};
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::coop::unconstrained;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::call::{Guest, run};
use crate::drive::Drive;
use crate::failure;
use crate::loaded::Loaded;
use crate::runtime::Revision;
use crate::state::State;

/// Guests of one instance that work on after their answer at most.
const AFTER_MAX: usize = 64;

/// A started revision.
pub(crate) struct WasmInstance {
    revision: Arc<Revision>,
    linked: Mutex<Option<Linked>>,
    calls: Arc<Calls>,
}

#[derive(Clone)]
pub(crate) struct Linked {
    pub proxy: ProxyPre<State>,
    pub loaded: Arc<Loaded>,
    /// Slots that a call takes.
    pub slots: u32,
}

impl WasmInstance {
    pub(crate) fn new(revision: Arc<Revision>, linked: Linked) -> Self {
        Self { revision, linked: Mutex::new(Some(linked)), calls: Arc::new(Calls::new()) }
    }

    fn begin(&self, call: Call) -> Result<Drive, RuntimeError> {
        let Some(linked) = lock(&self.linked).clone() else { return Err(failure::cut()) };
        let Revision { engines, unit, .. } = &*self.revision;
        let (store, log, meter) = self.revision.store(call.id, &linked)?;
        let proxy = linked.proxy;
        let (sender, head) = oneshot::channel();
        let failed = Arc::default();
        let guest = run(store, proxy, call.request, sender, Arc::clone(&failed), log, unit.spec.limits.clone());
        Ok(Drive {
            guest: Guest::Here(Box::pin(guest)),
            meter,
            lane: Arc::clone(&engines.lane),
            head: Some(head),
            failed,
            calls: Arc::clone(&self.calls),
            after: unit.spec.timeout.run.duration(),
            answer: None,
            ended: None,
        })
    }
}

impl fmt::Debug for WasmInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmInstance").field("function", &self.revision.unit.function).finish_non_exhaustive()
    }
}

impl Instance for WasmInstance {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<http::Response<Body>, RuntimeError>> {
        Box::pin(async move {
            let mut drive = self.begin(call)?;
            // A call that ends at its first poll never enters the list of those to be cut.
            let mut cut = None;
            let reply = poll_fn(|cx| match drive.poll(cx) {
                Poll::Ready(reply) => Poll::Ready(reply),
                Poll::Pending => self.calls.poll_cut(&mut cut, cx),
            });
            // A caller that has used up its budget would hide an answer that is there;
            // guests are made to yield by the engine's clock instead.
            unconstrained(reply).await
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            lock(&self.linked).take();
            self.calls.cut_all();
        })
    }

    fn usage(&self) -> Usage {
        Usage { memory_bytes: lock(&self.linked).as_ref().map_or(0, |linked| linked.loaded.bytes()) }
    }
}

/// The calls of an instance that wait or stream, so that a stop can cut them.
pub(crate) struct Calls {
    entries: Mutex<Entries>,
    after: Arc<Semaphore>,
}

#[derive(Default)]
struct Entries {
    stopped: bool,
    next: u64,
    cuts: HashMap<u64, Cut>,
}

/// How to cut a call.
pub(crate) enum Cut {
    /// It is polled by its caller.
    Call(AbortHandle),
    /// It is a task.
    Task(tokio::task::AbortHandle),
}

/// A call's entry; dropping it takes the call from the list.
pub(crate) struct Entered {
    calls: Arc<Calls>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.calls.entries).cuts.remove(&self.id);
    }
}

/// What a waiting caller polls beside its call.
pub(crate) struct Cutting {
    cut: Abortable<Pending<()>>,
    _entered: Entered,
}

impl Calls {
    fn new() -> Self {
        Self { entries: Mutex::default(), after: Arc::new(Semaphore::new(AFTER_MAX)) }
    }

    /// Enters a call; `None` once the instance is stopped.
    pub(crate) fn enter(self: &Arc<Self>, cut: Cut) -> Option<Entered> {
        let mut entries = lock(&self.entries);
        if entries.stopped {
            return None;
        }
        let id = entries.next;
        entries.next += 1;
        entries.cuts.insert(id, cut);
        Some(Entered { calls: Arc::clone(self), id })
    }

    /// Returns a place for work after an answer.
    pub(crate) fn after_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.after).try_acquire_owned().ok()
    }

    fn poll_cut<T>(
        self: &Arc<Self>,
        cutting: &mut Option<Cutting>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, RuntimeError>> {
        if cutting.is_none() {
            let (handle, registration) = AbortHandle::new_pair();
            let Some(entered) = self.enter(Cut::Call(handle)) else { return Poll::Ready(Err(failure::cut())) };
            *cutting = Some(Cutting { cut: Abortable::new(pending(), registration), _entered: entered });
        }
        let Some(cutting) = cutting else { return Poll::Pending };
        Pin::new(&mut cutting.cut).poll(cx).map(|_| Err(failure::cut()))
    }

    fn cut_all(&self) {
        let cuts = {
            let mut entries = lock(&self.entries);
            entries.stopped = true;
            std::mem::take(&mut entries.cuts)
        };
        for cut in cuts.into_values() {
            match cut {
                Cut::Call(handle) => handle.abort(),
                Cut::Task(handle) => handle.abort(),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
