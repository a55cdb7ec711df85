//! The body of a request, whoever reads it: what is left unread when the answer
//! is ready is thrown away within bounds, or the connection ends with the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use faas_model::BodyError;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::connection::Verdict;

/// How much of an unread body is thrown away to keep its connection, and how long an answer waits for it.
const UNREAD_BYTES: u64 = 64 << 10;
const UNREAD_TIME: Duration = Duration::from_millis(100);

/// The body of a request; its errors say what the socket saw.
pub(super) struct Upload {
    /// Taken when it has ended or is given up.
    incoming: Option<Incoming>,
    /// Whether the client may send: it does not wait for `100 Continue`, or was told.
    comes: bool,
    verdict: Arc<Verdict>,
    rest: Arc<Rest>,
}

/// Where a body goes that is dropped before its end.
#[derive(Default)]
struct Rest(Mutex<State>);

#[derive(Default)]
enum State {
    /// Somebody may still read it; the waker is that of the answer.
    #[default]
    Held,
    Awaited(Waker),
    Left(Incoming),
    Ended,
    /// It does not come to its end: the connection closes.
    GivenUp,
}

impl Rest {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what became of the body, unless nobody waits for it any more.
    fn settle(&self, outcome: State) {
        let mut state = self.lock();
        if matches!(*state, State::GivenUp) {
            return;
        }
        let before = std::mem::replace(&mut *state, outcome);
        drop(state);
        if let State::Awaited(waker) = before {
            waker.wake();
        }
    }
}

impl Upload {
    /// Returns the body, and what waits for its end. `expects` says that the client waits for `100 Continue`.
    pub(super) fn new(incoming: Incoming, expects: bool, verdict: Arc<Verdict>) -> (Self, Unread) {
        let rest = Arc::new(Rest::default());
        let unread = Unread { rest: rest.clone(), left: UNREAD_BYTES, timer: None };
        (Self { incoming: Some(incoming), comes: !expects, verdict, rest }, unread)
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        this.comes = true;
        let outcome = match ready!(Pin::new(incoming).poll_frame(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Err(_)) => {
                let fault = this.verdict.body_fault();
                let left = || BodyError::Broken("the client left before the body's end".into());
                (State::GivenUp, Some(Err(fault.unwrap_or_else(left))))
            }
            None => (State::Ended, None),
        };
        this.incoming = None;
        this.rest.settle(outcome.0);
        Poll::Ready(outcome.1)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        self.rest.settle(match incoming {
            ended if ended.is_end_stream() => State::Ended,
            // Reading on would ask for it with `100 Continue`.
            _ if !self.comes => State::GivenUp,
            left => State::Left(left),
        });
    }
}

/// Waits for the end of a body that may be left unread. Dropped, it gives the body up.
pub(super) struct Unread {
    rest: Arc<Rest>,
    left: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Unread {
    /// Returns whether somebody may still read the body.
    pub(super) fn is_held(&self) -> bool {
        matches!(*self.rest.lock(), State::Held | State::Awaited(_))
    }

    /// Waits until the body has ended, `true`, or will not within the bounds, `false`.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Poll::Ready(ended) = self.poll_rest(cx) {
            return Poll::Ready(ended);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(UNREAD_TIME)));
        timer.as_mut().poll(cx).map(|()| false)
    }

    /// Throws away what has come of a body that nobody reads; without a bound on the time.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.rest.lock();
        let ended = loop {
            let incoming = match &mut *state {
                State::Held | State::Awaited(_) => {
                    *state = State::Awaited(cx.waker().clone());
                    return Poll::Pending;
                }
                State::Left(incoming) => incoming,
                State::Ended => return Poll::Ready(true),
                State::GivenUp => return Poll::Ready(false),
            };
            if incoming.size_hint().lower() > self.left {
                break false;
            }
            match ready!(Pin::new(incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match self.left.checked_sub(bytes) {
                        Some(left) => self.left = left,
                        None => break false,
                    }
                }
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        *state = if ended { State::Ended } else { State::GivenUp };
        Poll::Ready(ended)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let mut state = self.rest.lock();
        if !matches!(*state, State::Ended) {
            *state = State::GivenUp;
        }
    }
}
