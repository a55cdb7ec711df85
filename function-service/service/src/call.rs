//! One dispatch: a place on an instance, the call, the answer within its bounds.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use faas_invoke::{Invocation, InvokeError, Reply, Timings};
use faas_model::{Body, CallId, Component, Reason, headers};
use faas_runtime::{Call, RuntimeError};
use futures_util::poll;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use crate::flight::{BodyLimits, Flight, HeldBody};
use crate::lane::{Lane, Refused, Running};
use crate::pool::{Farewell, Refusal};

const DEADLINE: HeaderName = HeaderName::from_static(headers::DEADLINE_MS);

/// Runs an invocation in its lane.
pub(crate) async fn run(lane: Arc<Lane>, invocation: Invocation) -> Result<Reply, InvokeError> {
    let arrived = Instant::now();
    let mut flight = Flight::new(lane.clone(), arrived);
    let place = match lane.place().await {
        Ok(place) => place,
        Err(refused) => return Err(fail(flight, refusal(&lane, refused), Timings::default())),
    };
    let (running, cold) = (place.running.clone(), place.cold);
    flight.place = Some(place);
    let mut timings = Timings { queue: arrived.elapsed(), ..Timings::default() };
    if cold {
        timings.cold.clone_from(&running.phases);
    }
    let (method, begin) = (invocation.request.method().clone(), Instant::now());
    let answer = invoke(&running, invocation.call, invocation.request).await;
    timings.run = begin.elapsed();
    let answer = answer.and_then(|response| bounded(&running, &method, response));
    match answer {
        Ok(response) => Ok(Reply {
            response: hold(flight, &running, &method, response),
            timings,
            revision: running.target.revision.id,
        }),
        Err(error) => Err(fail(flight, error, timings)),
    }
}

fn fail(flight: Flight, mut error: InvokeError, timings: Timings) -> InvokeError {
    flight.end(Err(error.reason));
    error.timings = timings;
    error
}

async fn invoke(
    running: &Running,
    id: CallId,
    mut request: http::Request<Body>,
) -> Result<Response<Body>, InvokeError> {
    let bound = running.target.revision.spec.timeout.run.duration();
    request.headers_mut().insert(DEADLINE, HeaderValue::from(unix_ms(bound)));
    let mut call = running.instance.invoke(Call { id, request });
    // Most calls need no timer.
    let answer = match poll!(call.as_mut()) {
        Poll::Ready(answer) => Ok(answer),
        Poll::Pending => timeout(bound, call).await,
    };
    match answer {
        Ok(answer) => answer.map_err(of_runtime),
        Err(_) => {
            let detail = format!("no answer within timeout.run = {} ms", bound.as_millis());
            Err(InvokeError::new(Component::Function, Reason::RunTimeout, detail))
        }
    }
}

/// Refuses an answer that says itself that it is too large.
fn bounded(running: &Running, method: &Method, response: Response<Body>) -> Result<Response<Body>, InvokeError> {
    let max = running.target.revision.spec.limits.response_bytes.0;
    let told = length(method, &response).unwrap_or(0);
    let has = if bodiless(method, response.status()) { 0 } else { response.body().size_hint().lower() };
    if told.max(has) > max {
        let detail = format!("the answer is over limits.response_bytes = {max}");
        return Err(InvokeError::new(Component::Function, Reason::ReplyTooLarge, detail));
    }
    Ok(response)
}

/// Returns whether such an answer has no body, whatever it says.
fn bodiless(method: &Method, status: StatusCode) -> bool {
    let empty = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    method == Method::HEAD || empty.contains(&status)
}

/// Returns the length that the answer tells of its body, if it has one.
fn length(method: &Method, response: &Response<Body>) -> Option<u64> {
    let told = response.headers().get(header::CONTENT_LENGTH).filter(|_| !bodiless(method, response.status()))?;
    told.to_str().ok()?.parse().ok()
}

/// Makes a streaming body hold the call's place; whole answers give it back at once.
fn hold(flight: Flight, running: &Running, method: &Method, response: Response<Body>) -> Response<Body> {
    let bodiless = bodiless(method, response.status()) || response.body().is_end_stream();
    let spec = &running.target.revision.spec;
    let limits = BodyLimits {
        length: length(method, &response),
        bytes_max: spec.limits.response_bytes.0,
        idle: spec.timeout.idle.duration(),
        total: spec.timeout.stream.duration(),
    };
    response.map(|body| match body {
        Body::Stream(_) if !bodiless => Body::stream(HeldBody::new(body, flight, limits)),
        whole => {
            flight.end(Ok(()));
            if bodiless { Body::Empty } else { whole }
        }
    })
}

fn of_runtime(error: RuntimeError) -> InvokeError {
    let component = match error.reason {
        Reason::Crashed
        | Reason::BadReply
        | Reason::ReplyTooLarge
        | Reason::MemoryLimit
        | Reason::CpuLimit
        | Reason::RunTimeout => Component::Function,
        _ => Component::Runtime,
    };
    InvokeError::new(component, error.reason, error.detail)
}

fn refusal(lane: &Lane, refused: Refused) -> InvokeError {
    let refusal = match refused {
        Refused::By(refusal) => refusal,
        Refused::Start(failure) => return of_runtime(failure),
    };
    let spec = &lane.target().revision.spec;
    let ms = |time: Duration| time.as_millis();
    let (component, reason, detail) = match refusal {
        Refusal::QueueFull => {
            let detail = format!("queue.depth = {} calls wait already", spec.queue.depth);
            (Component::Queue, Reason::QueueFull, detail)
        }
        Refusal::QueueTimeout => {
            let detail = format!("no instance became free within queue.wait = {} ms", ms(spec.queue.wait.duration()));
            (Component::Queue, Reason::QueueTimeout, detail)
        }
        Refusal::ColdTimeout => {
            let detail = format!("no instance started within timeout.cold = {} ms", ms(spec.timeout.cold.duration()));
            (Component::Runtime, Reason::ColdTimeout, detail)
        }
        Refusal::CrashLoop(pause) => {
            let detail = format!("starts keep failing; the next one is in {} ms", ms(pause));
            (Component::Runtime, Reason::CrashLoop, detail)
        }
        Refusal::Ended(Farewell::Stopping) => {
            (Component::Queue, Reason::Draining, "the platform is stopping".to_owned())
        }
        Refusal::Ended(Farewell::Removed) => return not_found(lane.function()),
    };
    InvokeError::new(component, reason, detail)
}

/// Returns the answer to a call of a function or alias that does not exist.
pub(crate) fn not_found(what: impl std::fmt::Display) -> InvokeError {
    InvokeError::new(Component::Queue, Reason::NotFound, format!("there is no function {what}"))
}

/// Returns the wall time after `wait`, in Unix milliseconds.
pub(crate) fn unix_ms(wait: Duration) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + wait;
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
