//! A call from arrival to the last byte: counted once, however it ends, and
//! its place given back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, BodyError, Reason};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::lane::{Lane, Place};
use crate::meters::Outcome;

/// A call that has not ended. Dropping it ends it; what was not said to be otherwise was cancelled.
#[derive(Debug)]
pub(crate) struct Flight {
    lane: Arc<Lane>,
    arrived: Instant,
    outcome: Outcome,
    /// Given back on drop.
    pub(crate) place: Option<Place>,
}

impl Flight {
    pub(crate) fn new(lane: Arc<Lane>, arrived: Instant) -> Self {
        Self { lane, arrived, outcome: Err(Reason::Cancelled), place: None }
    }

    /// Says how the call counts when it ends, however that comes.
    fn went(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Ends the call.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        drop(self.place.take());
        self.lane.meters().ended(self.outcome, self.arrived.elapsed());
    }
}

/// Bounds of an answer's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Bytes that the head announced.
    pub(crate) length: Option<u64>,
    /// Bytes at most.
    pub(crate) bytes_max: u64,
    /// Between two frames.
    pub(crate) idle: Duration,
    /// From the head to the end.
    pub(crate) total: Duration,
}

/// The body of an answer, which holds its call's place until it ends or is dropped.
#[derive(Debug)]
pub(crate) struct HeldBody {
    inner: Body,
    /// `None` once the body ended.
    flight: Option<Flight>,
    limits: BodyLimits,
    left: u64,
    ends_by: Instant,
    /// Made when the body first has nothing to give.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer was set since the last frame.
    armed: bool,
}

impl HeldBody {
    pub(crate) fn new(inner: Body, flight: Flight, limits: BodyLimits) -> Self {
        let (left, ends_by) = (limits.bytes_max, Instant::now() + limits.total);
        Self { inner, flight: Some(flight), limits, left, ends_by, timer: None, armed: false }
    }

    fn end(&mut self, outcome: Outcome) {
        // The guest goes first: its place is free only when nothing runs there.
        self.inner = Body::Empty;
        if let Some(flight) = self.flight.take() {
            flight.end(outcome);
        }
    }

    fn fail(&mut self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.end(Err(match error {
            BodyError::TooLarge { .. } => Reason::ReplyTooLarge,
            BodyError::Idle { .. } | BodyError::Deadline { .. } => Reason::RunTimeout,
            BodyError::Function(_) | BodyError::Broken(_) => Reason::Crashed,
        }));
        Some(Err(error))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Option<Result<Frame<Bytes>, BodyError>> {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = self.left.checked_sub(bytes) else {
            return self.fail(BodyError::TooLarge { max: self.limits.bytes_max });
        };
        if Instant::now() >= self.ends_by {
            return self.fail(self.late());
        }
        (self.left, self.armed) = (left, false);
        // A reader that has all bytes that were announced need not ask for the
        // end: dropping the body is then no cancellation.
        let whole = self.limits.length.is_some_and(|length| self.limits.bytes_max - left >= length);
        if let Some(flight) = self.flight.as_mut().filter(|_| whole || self.inner.is_end_stream()) {
            flight.went(Ok(()));
        }
        Some(Ok(frame))
    }

    fn late(&self) -> BodyError {
        BodyError::Deadline { ms: millis(self.limits.total) }
    }

    /// Waits no longer than the bounds allow.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let ends_by = self.ends_by;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(ends_by)));
        if !self.armed {
            timer.as_mut().reset(ends_by.min(Instant::now() + self.limits.idle));
            self.armed = true;
        }
        ready!(timer.as_mut().poll(cx));
        let late = timer.deadline() >= ends_by;
        Poll::Ready(if late { self.late() } else { BodyError::Idle { ms: millis(self.limits.idle) } })
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.flight.is_none() {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let error = ready!(this.poll_timer(cx));
                return Poll::Ready(this.fail(error));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => this.take(frame),
            Some(Err(error)) => this.fail(error),
            None => {
                this.end(Ok(()));
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // While the place is held the end must be polled for, so that it is given back.
        self.flight.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
