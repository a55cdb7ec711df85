//! One call: its store and its guest.
//!
//! The guest is polled on the caller's own task. Only a guest that computes for
//! long (to the lane) or outlives the head of its answer (to a task that the
//! answer's body owns) costs a task.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use faas_model::manifest::Limits;
use faas_model::{Body, BodyError};
use faas_runtime::RuntimeError;
use faas_runtime::logs::CallLog;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p3::Request as Request03;
use wasmtime_wasi_http::p3::bindings::Service;

use crate::contract::{Exports, Pre};
use crate::crew::Presence;
use crate::failure::{self, Ended, Signs};
use crate::lane::{Ramp, Task};
use crate::meter::Meter;
use crate::outgoing::Outgoing;
use crate::state::{HOSTCALL_BYTES_MAX, State};

/// The head of an answer with its body, or why it is none.
pub(crate) type Head = Result<http::Response<Outgoing>, RuntimeError>;

/// How a call failed, for the body of its answer; unset while it runs and after a good end.
pub(crate) type Failed = Arc<OnceLock<RuntimeError>>;

/// One call, as its guest needs it.
pub(crate) struct Job {
    pub request: http::Request<Body>,
    pub head: oneshot::Sender<Head>,
    pub failed: Failed,
    pub log: Arc<CallLog>,
    pub limits: Limits,
}

/// Runs the guest to its end in a store of its own.
pub(crate) async fn run(mut store: Store<State>, pre: Pre, job: Job) -> Ended {
    let Job { request, head, failed, log, limits } = job;
    // Declared after the store, so told before the store's end closes the body.
    let mut told = Told { failed, done: false };
    bound(&mut store);
    let outcome = match pre.instantiate(&mut store).await {
        Ok(exports) => enter(&mut store, &exports, request, head).await,
        Err(error) => Err((error, false)),
    };
    let outcome = outcome.or_else(|(error, answered)| ended(&store, &error, answered, &log, &limits));
    told.tell(&outcome);
    outcome
}

/// Runs the guest in a store that took calls before and takes more, if all goes well.
pub(crate) async fn run_kept(live: &mut Option<Live>, job: Job) -> Ended {
    let Job { request, head, failed, log, limits } = job;
    // Out of its place while it runs: a call that is cut, or fails, leaves nothing to go on with.
    let Some(mut used) = live.take() else { return Err(failure::cut()) };
    // Declared after the store, so told before the store's end closes the body.
    let mut told = Told { failed, done: false };
    used.store.set_epoch_deadline(1);
    let outcome = enter(&mut used.store, &used.exports, request, head).await;
    let whole = outcome.is_ok();
    let outcome = outcome.or_else(|(error, answered)| ended(&used.store, &error, answered, &log, &limits));
    told.tell(&outcome);
    if whole {
        *live = used.rest();
    }
    outcome
}

/// Runs the guest in a store that was made before the call and takes no other.
pub(crate) async fn run_once(live: Live, job: Job) -> Ended {
    let mut live = Some(live);
    run_kept(&mut live, job).await
}

/// A component in a store, between two calls.
pub(crate) struct Live {
    pub store: Store<State>,
    pub exports: Exports,
    calls_left: u32,
}

impl Live {
    /// Instantiates a component, so that what can never start is known before it is called.
    pub(crate) async fn new(
        mut store: Store<State>,
        pre: &Pre,
        calls_max: u32,
        log: &CallLog,
        limits: &Limits,
    ) -> Result<Self, RuntimeError> {
        bound(&mut store);
        match pre.instantiate(&mut store).await {
            Ok(exports) => Ok(Self { store, exports, calls_left: calls_max }),
            Err(error) => {
                let failed = ended(&store, &error, false, log, limits).err();
                Err(failed.unwrap_or_else(failure::no_answer))
            }
        }
    }

    /// Tells how the guest ended from the engine's error.
    pub(crate) fn ended(&self, error: &wasmtime::Error, log: &CallLog, limits: &Limits) -> Ended {
        ended(&self.store, error, false, log, limits)
    }

    /// Ends a call; `None` when the store is to take no further one.
    fn rest(mut self) -> Option<Self> {
        self.calls_left = self.calls_left.saturating_sub(1);
        let state = self.store.data_mut();
        state.rest();
        // A guest that was once denied memory may be in any state.
        (self.calls_left > 0 && state.limiter.denied.is_none()).then_some(self)
    }
}

/// Tells how a call ended, and explains a failure in the function's log.
fn ended(store: &Store<State>, error: &wasmtime::Error, answered: bool, log: &CallLog, limits: &Limits) -> Ended {
    let state = store.data();
    let signs = Signs { over_cpu: state.meter.is_over(), memory_denied: state.limiter.denied, answered };
    let ended = failure::ended(error, signs, limits);
    if let Err(failure) = &ended {
        log.platform(&failure.to_string());
        explain(log, error);
    }
    ended
}

/// Sets the bounds of a store.
fn bound(store: &mut Store<State>) {
    store.limiter(|state| &mut state.limiter);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| store.data().meter.tick());
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
}

/// Makes the call; an error comes with whether the guest had answered by then.
async fn enter(
    store: &mut Store<State>,
    exports: &Exports,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
) -> Result<(), (wasmtime::Error, bool)> {
    let answered = Arc::new(OnceLock::new());
    let result = match exports {
        Exports::Handler02(proxy) => enter_02(store, proxy, request, head, Arc::clone(&answered)).await,
        Exports::Handler03(service) => enter_03(store, service, request, head, &answered).await,
    };
    result.map_err(|error| (error, answered.get().is_some()))
}

async fn enter_02(
    store: &mut Store<State>,
    proxy: &Proxy,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
    answered: Arc<OnceLock<()>>,
) -> wasmtime::Result<()> {
    let request = request.map(|body| body.map_err(body_error));
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let answer = store.data_mut().http().new_response_outparam_from_callback(move |answer| {
        answered.set(()).ok();
        let answer = answer.map(|response| response.map(Outgoing::Handler02));
        // The caller may have left.
        head.send(answer.map_err(|code| failure::error_answer(&code))).ok();
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, answer).await
}

async fn enter_03(
    store: &mut Store<State>,
    service: &Service,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
    answered: &OnceLock<()>,
) -> wasmtime::Result<()> {
    let run = store.run_concurrent(async |accessor| {
        let answer = answer_03(accessor, service, request).await?;
        answered.set(()).ok();
        // The caller may have left.
        head.send(answer).ok();
        // The guest may go on, to write its body or after it.
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        wasmtime::error::Ok(())
    });
    run.await?
}

/// Lets a guest answer one request of several.
pub(crate) async fn answer_03(
    accessor: &Accessor<State>,
    service: &Service,
    request: http::Request<Body>,
) -> wasmtime::Result<Head> {
    let request = request.map(|body| body.map_err(body_error));
    let request = accessor.with(|mut store| {
        // How reading it went is the request's own matter: its body tells.
        let (request, _read) = Request03::from_http(store.data_mut().http().hooks, request);
        request
    });
    Ok(match service.handle(accessor, request).await? {
        Ok(response) => {
            let told = Outgoing::told(|end| accessor.with(|store| response.into_http(store, end.wait())));
            // The guest's own words, such as its `content-length`, make no answer.
            Ok(told?)
        }
        Err(code) => Err(failure::error_answer(&code)),
    })
}

/// Writes what the engine says into the function's log.
fn explain(log: &CallLog, error: &wasmtime::Error) {
    for line in format!("{error:?}").lines().take(40) {
        log.platform(line);
    }
}

/// Sees to it that the body learns of a failure, also of a call that is cut.
struct Told {
    failed: Failed,
    done: bool,
}

impl Told {
    fn tell(&mut self, outcome: &Ended) {
        self.done = true;
        if let Err(failure) = outcome {
            self.failed.set(failure.clone()).ok();
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.done {
            self.failed.set(failure::cut()).ok();
        }
    }
}

fn body_error(error: BodyError) -> wasmtime_wasi_http::Error {
    use wasmtime_wasi_http::Error;
    match error {
        BodyError::TooLarge { max } => Error::HttpRequestBodySize(Some(max)),
        BodyError::Idle { .. } | BodyError::Deadline { .. } => Error::ConnectionReadTimeout,
        BodyError::Function(_) | BodyError::Broken(_) => Error::ConnectionTerminated,
    }
}

/// A guest on its way, wherever it is polled.
pub(crate) enum Guest {
    /// On the task of whoever polls this.
    Here(BoxFuture<'static, Ended>),
    /// On a task.
    There(Task),
    /// In a store that others share, on the task that drives it.
    Beside(Presence, Option<BoxFuture<'static, RuntimeError>>),
}

impl Guest {
    /// Polls the guest; one that computes for long moves to the lane, as does one whose like did.
    pub(crate) fn poll(&mut self, meter: &Arc<Meter>, ramp: &Arc<Ramp>, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Self::Here(call) = self {
            if !ramp.is_wary() {
                meter.begin();
                let polled = call.as_mut().poll(cx);
                meter.end();
                if !meter.is_hot() {
                    return polled;
                }
                ramp.beware();
                if polled.is_ready() {
                    return polled;
                }
            }
            let call = std::mem::replace(call, Box::pin(std::future::pending()));
            *self = Self::There(ramp.take(call, Arc::clone(meter)));
        }
        match self {
            Self::There(task) => Pin::new(task).poll(cx),
            Self::Here(_) | Self::Beside(_, None) => Poll::Pending,
            Self::Beside(_, Some(outlived)) => outlived.as_mut().poll(cx).map(Err),
        }
    }

    /// Notes that the call is over: it answered, with an error.
    pub(crate) fn answered(&mut self) {
        if let Self::Beside(..) = self
            && let Self::Beside(presence, _) = std::mem::replace(self, Self::Here(Box::pin(std::future::pending())))
        {
            presence.end();
        }
    }

    /// Notes that there will be no answer: what the end of the guest says is to be waited for.
    pub(crate) fn unanswered(&mut self) {
        if let Self::Beside(presence, outlived) = self {
            *outlived = Some(presence.outlived());
        }
    }

    /// Puts the guest on a task of its own.
    pub(crate) fn into_task(self, meter: Arc<Meter>, ramp: Arc<Ramp>) -> Task {
        match self {
            Self::There(task) => task,
            // It is on one already, which is not this call's.
            Self::Beside(presence, _) => Task(tokio::spawn(async move {
                presence.end();
                Ok(())
            })),
            Self::Here(call) => {
                let mut guest = Self::Here(call);
                Task(tokio::spawn(poll_fn(move |cx| guest.poll(&meter, &ramp, cx))))
            }
        }
    }
}
