//! The way from a guest to the reply: small answers are collected whole, larger
//! and slower ones become a stream that owns the guest.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use faas_model::{Body, Reason};
use faas_runtime::RuntimeError;
use tokio::sync::oneshot;

use crate::call::{Failed, Guest, Head};
use crate::failure::{self, Ended};
use crate::instance::Calls;
use crate::lane::Ramp;
use crate::meter::Meter;
use crate::outgoing::{BrokenOff, Outgoing};
use crate::reply::{self, Reply};

/// Answers of at most so many bytes are collected before they are given on, if the guest does not pause.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Drives a call to its reply.
pub(crate) struct Drive {
    pub guest: Guest,
    pub meter: Arc<Meter>,
    pub ramp: Arc<Ramp>,
    pub head: Option<oneshot::Receiver<Head>>,
    pub failed: Failed,
    pub calls: Arc<Calls>,
    pub after: std::time::Duration,
    pub answer: Option<Answer>,
    pub ended: Option<Ended>,
}

/// An answer that is being collected.
pub(crate) struct Answer {
    head: http::response::Parts,
    body: Option<Outgoing>,
    length: Option<u64>,
    bytes: BytesMut,
    first: Option<Bytes>,
    collected: usize,
}

impl Drive {
    /// Polls until there is a reply or a failure.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<Body>, RuntimeError>> {
        loop {
            if self.ended.is_none()
                && let Poll::Ready(ended) = self.guest.poll(&self.meter, &self.ramp, cx)
            {
                self.ended = Some(ended);
            }
            if self.answer.is_none()
                && let Some(outcome) = self.poll_head(cx)
            {
                match outcome {
                    Ok(answer) => self.answer = Some(answer),
                    Err(failure) => {
                        self.guest.answered();
                        return Poll::Ready(Err(failure));
                    }
                }
            }
            let Some(answer) = &mut self.answer else {
                return match self.ended.take() {
                    Some(Ok(())) => Poll::Ready(Err(failure::no_answer())),
                    Some(Err(failure)) => Poll::Ready(Err(failure)),
                    None => Poll::Pending,
                };
            };
            let progress = match answer.collect(self.ended.is_some(), cx) {
                Ok(progress) => progress,
                Err(BrokenOff) => return Poll::Ready(Err(self.broken_answer())),
            };
            if answer.body.is_none() || !progress || answer.collected > INLINE_BYTES_MAX {
                return Poll::Ready(self.finish());
            }
        }
    }

    /// Returns the answer once its head is there.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Option<Result<Answer, RuntimeError>> {
        match Pin::new(self.head.as_mut()?).poll(cx) {
            Poll::Ready(Ok(Ok(response))) => Some(Answer::new(response)),
            Poll::Ready(Ok(Err(failure))) => Some(Err(failure)),
            // Dropped without an answer: the guest's end says why.
            Poll::Ready(Err(_)) => {
                self.head = None;
                self.guest.unanswered();
                cx.waker().wake_by_ref();
                None
            }
            Poll::Pending => None,
        }
    }

    fn broken_answer(&mut self) -> RuntimeError {
        match self.ended.take() {
            Some(Err(failure)) => failure,
            _ => RuntimeError::new(Reason::BadReply, "the function broke its answer off"),
        }
    }

    /// Makes the reply of what is collected and, if there is more, of what is to come.
    fn finish(&mut self) -> Result<http::Response<Body>, RuntimeError> {
        let answer = self.answer.take().expect("only an answer is finished");
        let whole = answer.body.is_none();
        let complete = answer.length.is_some_and(|length| length == answer.collected as u64);
        let ended = self.ended.take();
        if whole
            && !complete
            && let Some(failure) = self.failed.get()
        {
            return Err(failure.clone());
        }
        let (head, start, rest) = answer.take_apart();
        if whole && ended.is_some() {
            return Ok(http::Response::from_parts(head, start.into()));
        }
        let guest = std::mem::replace(&mut self.guest, Guest::Here(Box::pin(std::future::pending())));
        if let Guest::Beside(presence, _) = guest {
            if whole {
                presence.end();
                return Ok(http::Response::from_parts(head, start.into()));
            }
            let reply =
                Reply::beside(start, rest, reply::length(&head), presence, Arc::clone(&self.failed), &self.calls);
            return Ok(http::Response::from_parts(head, Body::stream(reply)));
        }
        let task = ended.is_none().then(|| guest.into_task(Arc::clone(&self.meter), Arc::clone(&self.ramp)));
        if whole {
            if let Some(task) = task {
                reply::go_on(task, &self.calls, self.after);
            }
            return Ok(http::Response::from_parts(head, start.into()));
        }
        let length = reply::length(&head);
        let failed = Arc::clone(&self.failed);
        let reply = Reply::new(start, rest, length, task, failed, Arc::clone(&self.calls), self.after);
        Ok(http::Response::from_parts(head, Body::stream(reply)))
    }
}

impl Answer {
    fn new(response: http::Response<Outgoing>) -> Result<Self, RuntimeError> {
        let (head, body) = response.into_parts();
        if head.status.is_informational() {
            let detail = format!("the function answered with status {}, which ends no request", head.status.as_u16());
            return Err(RuntimeError::new(Reason::BadReply, detail));
        }
        let length = reply::length(&head);
        Ok(Self { head, body: Some(body), length, bytes: BytesMut::new(), first: None, collected: 0 })
    }

    /// Takes what is there of the body; `true` if something was. A guest that ended writes no more.
    fn collect(&mut self, ended: bool, cx: &mut Context<'_>) -> Result<bool, BrokenOff> {
        let mut progress = false;
        while let Some(body) = &mut self.body {
            match body.poll(ended, cx) {
                Poll::Ready(None) => self.body = None,
                Poll::Ready(Some(bytes)) => self.push(bytes?),
                Poll::Pending => break,
            }
            progress = true;
            if self.collected > INLINE_BYTES_MAX && !ended {
                break;
            }
        }
        Ok(progress)
    }

    /// Keeps one chunk as it is and copies only when there are several.
    fn push(&mut self, chunk: Bytes) {
        self.collected += chunk.len();
        if self.bytes.is_empty() && self.first.is_none() {
            self.first = Some(chunk);
            return;
        }
        if let Some(first) = self.first.take() {
            self.bytes.extend_from_slice(&first);
        }
        self.bytes.extend_from_slice(&chunk);
    }

    fn take_apart(self) -> (http::response::Parts, Bytes, Option<Outgoing>) {
        let start = self.first.unwrap_or_else(|| self.bytes.freeze());
        (self.head, start, self.body)
    }
}
