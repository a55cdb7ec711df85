//! Bodies in both directions, each counted against the bound of its call.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use super::connect::Connection;
use super::error::Error;
use super::pool::{Key, Pool};

/// Any error of a request's body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that a call may still send or receive.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) max: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self { max, used: AtomicU64::new(0) }
    }

    /// Counts bytes; `false` when they are over the bound.
    fn take(&self, bytes: u64) -> bool {
        // Relaxed: only the number itself is shared.
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= self.max
    }
}

/// The body of a request on its way out. Its trailers are not sent.
pub(super) struct Upload {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    budget: Arc<Budget>,
    /// Gone with the body: then nothing of the request is left to be sent.
    _going: Arc<()>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").finish_non_exhaustive()
    }
}

impl Upload {
    /// Returns the body, and a sign that it is still being sent.
    pub(super) fn new(inner: UnsyncBoxBody<Bytes, BoxError>, budget: Arc<Budget>) -> (Self, Weak<()>) {
        let going = Arc::new(());
        let sign = Arc::downgrade(&going);
        (Self { inner, budget, _going: going }, sign)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        let bytes = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref()).map_or(0, |data| data.len() as u64);
        if !this.budget.take(bytes) {
            return Poll::Ready(Some(Err(Error::RequestBytes { max: this.budget.max }.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A place among the requests of the call, of the function and of all.
pub(super) type Place = [OwnedSemaphorePermit; 3];

/// What an answer holds until it was read.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Connection,
    pub(super) key: Key,
    pub(super) pool: Arc<Pool>,
    pub(super) sending: Weak<()>,
    pub(super) place: Place,
}

impl Lease {
    /// Gives the connection back, unless a part of the request is still being sent.
    fn end(self) {
        let Self { connection, key, pool, sending, place } = self;
        if sending.strong_count() == 0 {
            pool.put(key, connection);
        }
        drop(place);
    }
}

/// The body of an answer. Read to its end it leaves the connection to the next
/// request; dropped before, it closes it.
#[derive(Debug)]
pub struct ResponseBody {
    inner: Incoming,
    lease: Option<Lease>,
    budget: Arc<Budget>,
    between: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(super) fn new(inner: Incoming, lease: Lease, budget: Arc<Budget>, between: Duration) -> Self {
        let mut body = Self { inner, lease: Some(lease), budget, between, pause: None };
        body.end_if_whole();
        body
    }

    fn end_if_whole(&mut self) {
        if self.inner.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.end();
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.lease = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Waits for the next piece no longer than may be.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let between = self.between;
        ready!(self.pause.get_or_insert_with(|| Box::pin(sleep(between))).as_mut().poll(cx));
        self.fail(Error::BetweenBytesTimeout)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            // An answer that failed once has no further piece.
            _ if this.lease.is_none() => return Poll::Ready(None),
            Poll::Pending => return this.poll_pause(cx),
            Poll::Ready(frame) => frame,
        };
        if let Some(pause) = &mut this.pause {
            pause.as_mut().reset(Instant::now() + this.between);
        }
        match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if !this.budget.take(bytes) {
                    return this.fail(Error::ResponseBytes { max: this.budget.max });
                }
                this.end_if_whole();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => this.fail(Error::of_exchange(&error, Error::Incomplete)),
            None => {
                if let Some(lease) = this.lease.take() {
                    lease.end();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.end_if_whole();
    }
}
