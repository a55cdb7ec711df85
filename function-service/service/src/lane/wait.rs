//! A call that waits for its place, and the start that it carries out meanwhile.
//!
//! A start on the caller's own task costs no hand-over to other threads and back,
//! which is a good part of what a cold start takes. It is not the caller's, though:
//! others may wait for the instance, and a caller that leaves does not end it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::tend::{Start, start};
use super::{Command, Lane, Verdict};
use crate::pool::Ticket;

/// A call that waits. Dropping it leaves the queue, or gives the place back.
pub(super) struct Wait<'l> {
    lane: &'l Arc<Lane>,
    ticket: Ticket,
    verdict: oneshot::Receiver<Verdict>,
    /// The start that this call carries out.
    start: Option<BoxFuture<'static, Start>>,
    /// Whether the lane's task knows that somebody waits.
    known: bool,
}

impl<'l> Wait<'l> {
    /// Begins to wait; with a start to be carried out, the lane's task is not told yet.
    pub(super) fn new(
        lane: &'l Arc<Lane>,
        ticket: Ticket,
        verdict: oneshot::Receiver<Verdict>,
        command: Option<Command>,
    ) -> Self {
        let start: Option<BoxFuture<'static, Start>> = match command {
            Some(Command::Start(id, target)) => Some(Box::pin(start(lane.clone(), id, target))),
            _ => None,
        };
        Self { lane, ticket, verdict, known: start.is_none(), start }
    }

    /// Polls for the verdict; `Err` when nobody will give one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Verdict, oneshot::error::RecvError>> {
        if let Some(start) = &mut self.start {
            match start.as_mut().poll(cx) {
                Poll::Ready(ended) => {
                    self.start = None;
                    self.lane.own_start_ended(ended);
                }
                // Most starts never get here: until now nobody had to look at the time for this call.
                Poll::Pending if !self.known => {
                    self.known = true;
                    self.lane.look_after(&mut self.lane.lock());
                }
                Poll::Pending => {}
            }
        }
        Pin::new(&mut self.verdict).poll(cx)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(start) = self.start.take()
            && let Some(tasks) = self.lane.tasks.upgrade()
        {
            let lane = self.lane.clone();
            tasks.spawn(async move { lane.own_start_ended(start.await) });
        }
        self.lane.abandoned(self.ticket, &mut self.verdict);
    }
}
