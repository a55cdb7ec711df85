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
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::failure::{self, Ended, Signs};
use crate::lane::{Lane, Task};
use crate::meter::Meter;
use crate::state::{HOSTCALL_BYTES_MAX, State};

/// The head of an answer with its body, or the error the guest answered with.
pub(crate) type Head = Result<http::Response<HyperOutgoingBody>, ErrorCode>;

/// How a call failed, for the body of its answer; unset while it runs and after a good end.
pub(crate) type Failed = Arc<OnceLock<RuntimeError>>;

/// Runs the guest to its end in a store of its own.
pub(crate) async fn run(
    mut store: Store<State>,
    proxy: ProxyPre<State>,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
    failed: Failed,
    log: Arc<CallLog>,
    limits: Limits,
) -> Ended {
    // Declared after the store, so told before the store's end closes the body.
    let mut told = Told { failed, done: false };
    let outcome = match enter(&mut store, &proxy, request, head).await {
        Ok(()) => Ok(()),
        Err((error, answered)) => ended(&store, &error, answered, &log, &limits),
    };
    told.tell(&outcome);
    outcome
}

/// Instantiates the component once, so that what can never start is known before it is called.
pub(crate) async fn try_out(
    mut store: Store<State>,
    proxy: ProxyPre<State>,
    log: Arc<CallLog>,
    limits: Limits,
) -> Ended {
    bound(&mut store);
    match proxy.instantiate_async(&mut store).await {
        Ok(_) => Ok(()),
        Err(error) => ended(&store, &error, false, &log, &limits),
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
    proxy: &ProxyPre<State>,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
) -> Result<(), (wasmtime::Error, bool)> {
    bound(store);
    let answered = Arc::new(OnceLock::new());
    let set = Arc::clone(&answered);
    let result = async {
        let request = request.map(|body| body.map_err(body_error));
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam_from_callback(move |answer| {
            set.set(()).ok();
            // The caller may have left.
            head.send(answer).ok();
        })?;
        let proxy = proxy.instantiate_async(&mut *store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, answer).await
    };
    result.await.map_err(|error| (error, answered.get().is_some()))
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
}

impl Guest {
    /// Polls the guest; one that computes for long moves to the lane.
    pub(crate) fn poll(&mut self, meter: &Arc<Meter>, lane: &Lane, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Self::Here(call) = self {
            meter.begin();
            let polled = call.as_mut().poll(cx);
            if polled.is_ready() || !meter.is_hot() {
                return polled;
            }
            let call = std::mem::replace(call, Box::pin(std::future::pending()));
            *self = Self::There(lane.take(call, Arc::clone(meter)));
        }
        match self {
            Self::There(task) => Pin::new(task).poll(cx),
            Self::Here(_) => Poll::Pending,
        }
    }

    /// Puts the guest on a task of its own.
    pub(crate) fn into_task(self, meter: Arc<Meter>, lane: Arc<Lane>) -> Task {
        match self {
            Self::There(task) => task,
            Self::Here(call) => {
                let mut guest = Self::Here(call);
                Task(tokio::spawn(poll_fn(move |cx| guest.poll(&meter, &lane, cx))))
            }
        }
    }
}
