//! The body of an answer whose guest goes on: it owns the guest's task, and
//! dropping it early ends the guest.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use faas_model::BodyError;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::call::Failed;
use crate::crew::Presence;
use crate::instance::{Calls, Cut, Entered};
use crate::lane::Task;
use crate::outgoing::{BrokenOff, Outgoing};

/// A streaming answer.
pub(crate) struct Reply {
    start: Bytes,
    body: Option<Outgoing>,
    length: Option<u64>,
    given: u64,
    task: Option<(Task, Option<Entered>)>,
    /// The place at a store that other calls share.
    presence: Option<Presence>,
    /// Whether the guest ended.
    ended: bool,
    failed: Failed,
    calls: Arc<Calls>,
    after: Duration,
}

/// Returns the `Content-Length` of an answer.
pub(crate) fn length(head: &http::response::Parts) -> Option<u64> {
    head.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Lets a guest work on after its answer, for `after` at most, if there is room for one more.
pub(crate) fn go_on(task: Task, calls: &Arc<Calls>, after: Duration) {
    // A body may be dropped after its runtime; then nothing goes on anyway.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let Some(place) = calls.after_place() else { return };
    let Some(entered) = calls.enter(Cut::Task(task.0.abort_handle())) else { return };
    runtime.spawn(async move {
        // Its end was told to the log; the answer is out either way.
        tokio::time::timeout(after, task).await.ok();
        drop((place, entered));
    });
}

impl Reply {
    pub(crate) fn new(
        start: Bytes,
        body: Option<Outgoing>,
        length: Option<u64>,
        task: Option<Task>,
        failed: Failed,
        calls: Arc<Calls>,
        after: Duration,
    ) -> Self {
        let ended = task.is_none();
        // A stopped instance has no entry to give: the task is dropped, the body breaks off.
        let task = task.and_then(|task| {
            let entered = calls.enter(Cut::Task(task.0.abort_handle()))?;
            Some((task, Some(entered)))
        });
        Self { start, body, length, given: 0, task, presence: None, ended, failed, calls, after }
    }

    /// Makes the body of an answer whose guest shares its store.
    pub(crate) fn beside(
        start: Bytes,
        body: Option<Outgoing>,
        length: Option<u64>,
        presence: Presence,
        failed: Failed,
        calls: &Arc<Calls>,
    ) -> Self {
        let (calls, after) = (Arc::clone(calls), Duration::ZERO);
        let presence = Some(presence);
        Self { start, body, length, given: 0, task: None, presence, ended: false, failed, calls, after }
    }

    fn is_whole(&self) -> bool {
        self.body.is_none() && self.start.is_empty() || self.length == Some(self.given)
    }

    /// Tells whether the end of the guest's stream is the end of its answer.
    fn end(&self) -> Option<BodyError> {
        let failure = self.failed.get().filter(|_| self.length != Some(self.given))?;
        Some(BodyError::Function(failure.detail.clone()))
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.start.is_empty() {
            this.given += this.start.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.start)))));
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let mut part = body.poll(this.ended, cx);
        if part.is_pending()
            && let Some((task, _)) = &mut this.task
            && Pin::new(task).poll(cx).is_ready()
        {
            (this.task, this.ended) = (None, true);
            part = body.poll(true, cx);
        }
        let error = match std::task::ready!(part) {
            Some(Ok(bytes)) => {
                this.given += bytes.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Some(Err(BrokenOff)) => {
                let told = this.failed.get().map(|failure| failure.detail.clone());
                Some(BodyError::Function(told.unwrap_or_else(|| "the function broke its answer off".into())))
            }
            None => this.end(),
        };
        this.body = None;
        Poll::Ready(error.map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.start.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(self.given)))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(presence) = self.presence.take().filter(|_| self.is_whole()) {
            presence.end();
        }
        if self.is_whole()
            && let Some((task, _)) = self.task.take()
            && !task.0.is_finished()
        {
            go_on(task, &self.calls, self.after);
        }
    }
}
