//! One connection: hyper over the guarded socket, and the service that answers
//! either with the handler or with the verdict of the head machine.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use faas_model::{Body, BodyError, CallId, Component, Problem, Reason};
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, error};

use super::machine::Refusal;
use super::socket::Guarded;
use super::upload::{Unread, Upload};
use super::{Listener, Peer, Stop};

/// Serves one connection to its end.
pub(super) async fn run(listener: Arc<Listener>, stream: TcpStream, peer: Peer, place: OwnedSemaphorePermit) {
    let open = Open::new(listener.metrics.clone());
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "the connection broke before its first byte");
        return;
    }
    let verdict = Arc::new(Verdict::default());
    let socket = Guarded::new(stream, &listener, verdict.clone());
    let service = Service { listener: listener.clone(), verdict, peer, requests: AtomicU64::new(0) };
    let mut builder = http1::Builder::new();
    // Larger than any head the machine lets pass.
    let head_bytes = listener.limits.header_bytes_max + listener.limits.uri_bytes_max + 1024;
    builder.half_close(false).max_buf_size(head_bytes.max(128 << 10));
    if listener.limits.headers_max > 100 {
        // Only where it is needed: hyper then allocates for every head.
        builder.max_headers(listener.limits.headers_max);
    }
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let mut drain = pin!(listener.drain.cancelled());
    let (mut registered, mut draining) = (false, false);
    let ended = std::future::poll_fn(|cx| {
        if !registered || (!draining && listener.stop() == Stop::Closes) {
            registered = true;
            if drain.as_mut().poll(cx).is_ready() {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        debug!(%error, "the connection broke");
    }
    drop((open, place));
}

/// What the socket tells the service about one connection.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// The request, counted from 1, that stands for a refused head; 0 if none.
    refused_request: AtomicU64,
    refusal: OnceLock<Refusal>,
    /// Why the body that is being read will not come whole.
    body_fault: OnceLock<BodyError>,
    /// Whether a request is being answered.
    busy: AtomicBool,
}

impl Verdict {
    /// Has request number `request` answered with `refusal`.
    pub(super) fn refuse(&self, request: u64, refusal: Refusal) {
        self.refusal.get_or_init(|| refusal);
        self.refused_request.store(request, Ordering::Release);
    }

    /// Says why the current body ends early.
    pub(super) fn fail_body(&self, fault: BodyError) {
        self.body_fault.get_or_init(|| fault);
    }

    /// Returns why the current body ends early, if it does.
    pub(super) fn body_fault(&self) -> Option<BodyError> {
        self.body_fault.get().cloned()
    }

    /// Returns whether a request is being answered.
    pub(super) fn busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

/// Marks the connection as answering until it is dropped.
struct Busy(Arc<Verdict>);

impl Busy {
    fn new(verdict: &Arc<Verdict>) -> Self {
        verdict.busy.store(true, Ordering::Release);
        Self(verdict.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

struct Service {
    listener: Arc<Listener>,
    verdict: Arc<Verdict>,
    peer: Peer,
    requests: AtomicU64,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let mut answer = Answer {
            state: State::Ready(Response::default()),
            unread: None,
            busy: Some(Busy::new(&self.verdict)),
            listener: self.listener.clone(),
        };
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if self.verdict.refused_request.load(Ordering::Acquire) == number {
            answer.state = State::Ready(self.refused());
            return answer;
        }
        let (parts, incoming) = request.into_parts();
        let body = if HttpBody::is_end_stream(&incoming) {
            Body::Empty
        } else {
            let expects = parts.headers.contains_key(EXPECT);
            let (upload, unread) = Upload::new(incoming, expects, self.verdict.clone());
            answer.unread = Some(unread);
            Body::stream(upload)
        };
        answer.state = State::Runs((self.listener.handler)(Request::from_parts(parts, body), self.peer));
        answer
    }
}

impl Service {
    /// Answers the request that stands for a refused head.
    fn refused(&self) -> Response<Body> {
        let refusal = self.verdict.refusal.get().copied();
        let Refusal { reason, detail } = refusal.unwrap_or(Refusal { reason: Reason::BadRequest, detail: "" });
        self.listener.metrics.refused(reason);
        debug!(peer = %self.peer.address, reason = %reason, detail, "request refused");
        let mut response =
            Problem::new(self.listener.component, reason, detail).with_call(CallId::fresh()).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if reason == Reason::Method {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
            response.headers_mut().insert(ALLOW, allowed);
        }
        response
    }
}

/// The answer to one request, as a future.
struct Answer {
    state: State,
    /// The request's body until it is known to have ended.
    unread: Option<Unread>,
    busy: Option<Busy>,
    listener: Arc<Listener>,
}

enum State {
    Runs(BoxFuture<'static, Response<Body>>),
    Ready(Response<Body>),
}

impl Answer {
    /// Waits until it is known whether the connection closes after `response`:
    /// a client that is not told would send its next request into the close.
    fn poll_close(&mut self, cx: &mut Context<'_>, streams: bool) -> Poll<bool> {
        let mut unread_closes = false;
        if let Some(unread) = &mut self.unread {
            if streams && unread.is_held() {
                // Both directions go on beside each other.
                return Poll::Ready(self.listener.stop() != Stop::No);
            }
            unread_closes = !std::task::ready!(unread.poll_end(cx));
        }
        self.unread = None;
        Poll::Ready(unread_closes || self.listener.stop() != Stop::No)
    }
}

impl Future for Answer {
    type Output = Result<Response<Outgoing>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let State::Runs(future) = &mut this.state {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(cx)));
            // What the future holds is not needed while the rest of the upload and the answer's body stream.
            this.state = State::Ready(match caught {
                Ok(poll) => std::task::ready!(poll),
                Err(_) => panicked(this.listener.component),
            });
        }
        let streams = match &this.state {
            State::Ready(response) => response.body().size_hint().exact().is_none(),
            State::Runs(_) => return Poll::Pending,
        };
        let close = std::task::ready!(this.poll_close(cx, streams));
        let State::Ready(mut response) = std::mem::replace(&mut this.state, State::Ready(Response::default())) else {
            return Poll::Pending;
        };
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let (unread, busy) = (this.unread.take(), this.busy.take());
        Poll::Ready(Ok(response.map(|body| Outgoing { body, ended: false, unread, _busy: busy })))
    }
}

/// A panic is a fault of ours: it costs one call its answer, not the process its life.
fn panicked(component: Component) -> Response<Body> {
    error!(?component, "a request handler panicked");
    metrics::counter!("faas_panics_total").increment(1);
    let problem = Problem::new(component, Reason::Internal, "the platform failed; its log says more");
    problem.with_call(CallId::fresh()).into_response()
}

/// The body of an answer; the connection is busy until it ends.
struct Outgoing {
    body: Body,
    /// Whether `body` has ended.
    ended: bool,
    /// The request's body, if it was still being read when the answer began.
    unread: Option<Unread>,
    _busy: Option<Busy>,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.unread.as_mut().is_some_and(|unread| unread.poll_rest(cx).is_ready()) {
            this.unread = None;
        }
        if !this.ended {
            let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
            if frame.is_some() {
                return Poll::Ready(frame);
            }
            this.ended = true;
        }
        if let Some(unread) = &mut this.unread {
            std::task::ready!(unread.poll_end(cx));
            this.unread = None;
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.unread.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The listener's metrics.
#[derive(Clone)]
pub(super) struct Metrics {
    listener: &'static str,
    open: metrics::Gauge,
    accepted: metrics::Counter,
}

impl Metrics {
    pub(super) fn new(component: Component) -> Self {
        let listener = match component {
            Component::Gateway => "functions",
            Component::Control => "control",
            Component::Baas => "baas",
            Component::Queue | Component::Runtime | Component::Function => "other",
        };
        Self {
            listener,
            open: metrics::gauge!("faas_connections_open", "listener" => listener),
            accepted: metrics::counter!("faas_connections_total", "listener" => listener),
        }
    }

    fn refused(&self, reason: Reason) {
        metrics::counter!("faas_requests_refused_total", "listener" => self.listener, "reason" => reason.as_str())
            .increment(1);
    }
}

/// Counts one open connection.
struct Open(Metrics);

impl Open {
    fn new(metrics: Metrics) -> Self {
        metrics.accepted.increment(1);
        metrics.open.increment(1.0);
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.decrement(1.0);
    }
}
