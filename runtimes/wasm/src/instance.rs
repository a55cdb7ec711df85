//! An instance: a loaded, linked revision that answers calls, each in a fresh store
//! or in one that it keeps.

use std::collections::HashMap;
use std::fmt;
use std::future::{Pending, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use faas_model::Body;
use faas_model::manifest::Reuse;
use faas_runtime::{Call, Instance, RuntimeError, Usage};
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::coop::unconstrained;

use crate::call::{Failed, Guest, Head, Job, Live, run, run_kept, run_once};
use crate::contract::Pre;
use crate::crew::{Asked, Crew};
use crate::drive::Drive;
use crate::failure::{self, Ended};
use crate::loaded::Loaded;
use crate::meter::Meter;
use crate::runtime::Revision;
use crate::trial::Trial;

/// Guests of one instance that work on after their answer at most.
const AFTER_MAX: usize = 64;

/// A started revision.
pub(crate) struct WasmInstance {
    revision: Arc<Revision>,
    linked: Mutex<Option<Arc<Linked>>>,
    calls: Arc<Calls>,
    reuse: Reused,
}

/// A component that is loaded, linked, and known to start.
pub(crate) struct Linked {
    pub pre: Pre,
    pub loaded: Arc<Loaded>,
    /// Slots that a store takes.
    pub slots: u32,
}

/// What calls of an instance share.
enum Reused {
    /// Nothing: each has a store of its own, the first perhaps the one that was made to try the component.
    Never(Arc<Trial>),
    /// The store, one after the other; empty before the first call and after one that ended badly.
    Sequential(Seat),
    /// The store, side by side.
    Concurrent(Crew),
}

/// Where the store of an instance waits for its next call; the lock is held by the call that runs.
pub(crate) type Seat = Arc<tokio::sync::Mutex<Option<Live>>>;

impl WasmInstance {
    /// Makes an instance, with the store that was made to try the component.
    pub(crate) fn new(revision: Arc<Revision>, linked: Arc<Linked>, live: Option<Live>) -> Self {
        let reuse = match revision.unit.spec.reuse {
            Reuse::Never => Reused::Never(Trial::new(live)),
            Reuse::Sequential => Reused::Sequential(Arc::new(tokio::sync::Mutex::new(live))),
            Reuse::Concurrent => Reused::Concurrent(Crew::new(live)),
        };
        Self { revision, linked: Mutex::new(Some(linked)), calls: Arc::new(Calls::new()), reuse }
    }

    /// Returns the store that its first call may take, of an instance that keeps none.
    pub(crate) fn trial(&self) -> Option<&Arc<Trial>> {
        match &self.reuse {
            Reused::Never(trial) => Some(trial),
            Reused::Sequential(_) | Reused::Concurrent(_) => None,
        }
    }

    fn begin(&self, call: Call) -> Result<Drive, RuntimeError> {
        let Some(linked) = lock(&self.linked).clone() else { return Err(failure::cut()) };
        if let Reused::Concurrent(crew) = &self.reuse {
            let Asked { presence, head, failed, meter } =
                crew.ask(&self.revision, &linked, &self.calls, call.request)?;
            return Ok(self.drive(Guest::Beside(presence, None), meter, head, failed));
        }
        let unit = &self.revision.unit;
        let (log, meter) = self.revision.attend(call.id);
        let (sender, head) = oneshot::channel();
        let failed = Failed::default();
        let job = Job {
            request: call.request,
            head: sender,
            failed: Arc::clone(&failed),
            log: Arc::clone(&log),
            limits: unit.spec.limits.clone(),
        };
        let guest: BoxFuture<'static, Ended> = match &self.reuse {
            Reused::Never(trial) => match trial.take() {
                Some(mut live) => {
                    live.store.data_mut().begin(&log, &meter, self.revision.until());
                    Box::pin(run_once(live, job))
                }
                None => {
                    let store = self.revision.store(&log, &meter, &linked)?;
                    Box::pin(run(store, linked.pre.clone(), job))
                }
            },
            Reused::Sequential(seat) => {
                let (revision, seat, meter) = (Arc::clone(&self.revision), Arc::clone(seat), Arc::clone(&meter));
                Box::pin(take_turn(revision, linked, seat, meter, job))
            }
            Reused::Concurrent(_) => return Err(failure::cut()),
        };
        Ok(self.drive(Guest::Here(guest), meter, head, failed))
    }

    fn drive(&self, guest: Guest, meter: Arc<Meter>, head: oneshot::Receiver<Head>, failed: Failed) -> Drive {
        Drive {
            guest,
            meter,
            ramp: Arc::clone(&self.revision.ramp),
            head: Some(head),
            failed,
            calls: Arc::clone(&self.calls),
            after: self.revision.unit.spec.timeout.run.duration(),
            answer: None,
            ended: None,
        }
    }
}

/// Runs a call in the store that the instance keeps, or in a new one where there is none.
async fn take_turn(revision: Arc<Revision>, linked: Arc<Linked>, seat: Seat, meter: Arc<Meter>, job: Job) -> Ended {
    // The call before may work on after its answer.
    let mut live = seat.lock_owned().await;
    match &mut *live {
        Some(live) => live.store.data_mut().begin(&job.log, &meter, revision.until()),
        None => *live = Some(revision.live(&job.log, &meter, &linked).await?),
    }
    run_kept(&mut live, job).await
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
            match &self.reuse {
                Reused::Never(trial) => drop(trial.take()),
                // A call that still holds it was cut just now, and lets go of the store.
                Reused::Sequential(seat) => drop(seat.try_lock().map(|mut seat| seat.take())),
                Reused::Concurrent(crew) => crew.stop(),
            }
        })
    }

    fn usage(&self) -> Usage {
        let code = lock(&self.linked).as_ref().map_or(0, |linked| linked.loaded.bytes());
        let memory = match &self.reuse {
            // What a driver's store holds is known to its task alone.
            Reused::Never(_) | Reused::Concurrent(_) => 0,
            Reused::Sequential(seat) => {
                let held = |live: &Live| live.store.data().limiter.memory_bytes();
                seat.try_lock().ok().and_then(|seat| seat.as_ref().map(held)).unwrap_or(0)
            }
        };
        Usage { memory_bytes: code + memory }
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
