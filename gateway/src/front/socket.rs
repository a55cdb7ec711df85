//! The socket that hyper reads and writes: it passes on only what the head
//! machine accepted, and runs the time bounds of every phase.
//!
//! A refused head becomes one harmless request that the service answers with the
//! verdict, so that answers keep their order and hyper closes the connection. A
//! body that breaks its framing or its time ends with an error. After either no
//! byte is read but to be thrown away.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use faas_model::units::Millis;
use faas_model::{BodyError, Reason};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::Verdict;
use super::machine::{Machine, Phase, Refusal};
use super::{Config, Listener};

/// What hyper reads in place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// How long and how much is thrown away after the last answer, so that the
/// client reads it before it learns that its own bytes were not wanted.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// The time bounds.
#[derive(Debug, Clone, Copy)]
struct Times {
    head: Millis,
    keep_alive: Millis,
    body_idle: Millis,
    body_total: Millis,
    write_idle: Millis,
}

/// A guarded connection.
pub(super) struct Guarded {
    stream: TcpStream,
    machine: Machine,
    verdict: Arc<Verdict>,
    times: Times,
    /// Bytes read from the stream and not yet passed on; the first `ready` may be.
    held: BytesMut,
    ready: usize,
    /// Whether the stand-in for a refused head has been put in `held`.
    stood_in: bool,
    /// Since when nothing has come or gone; not known until the next wait.
    quiet: Option<Instant>,
    /// When the head or body (by its number) began that is waited for.
    began: Option<(Phase, u64, Instant)>,
    /// Since when the client takes nothing.
    stuck: Option<Instant>,
    /// Fires not later than the nearest bound; moved only when it fires or is too late.
    timer: Option<Pin<Box<Sleep>>>,
    closing: Closing,
}

enum Closing {
    Open,
    Linger { left: usize, until: Instant },
    Closed,
}

/// Which bound passed while waiting for bytes.
enum Late {
    Idle,
    Head,
    Body(BodyError),
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, listener: &Listener, verdict: Arc<Verdict>) -> Self {
        let Config { head_timeout, keep_alive, body_idle, body_total, write_idle, .. } = listener.config;
        Self {
            stream,
            machine: Machine::new(listener.limits),
            verdict,
            times: Times { head: head_timeout, keep_alive, body_idle, body_total, write_idle },
            held: BytesMut::new(),
            ready: 0,
            stood_in: false,
            quiet: None,
            began: None,
            stuck: None,
            timer: None,
            closing: Closing::Open,
        }
    }

    /// Reads from the stream through the machine. `Ok(true)` when bytes were put
    /// in `buf` or the stream has ended, `Ok(false)` when more are needed.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if self.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(true));
            }
            let step = self.machine.step(fresh);
            if step.refusal.is_none() {
                self.held.extend_from_slice(fresh.get(step.accepted..).unwrap_or_default());
            }
            buf.set_filled(before + step.accepted);
            self.quiet = None;
            return Poll::Ready(Ok(step.accepted > 0));
        }
        let mut space = [0; 4096];
        let mut space = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        if space.filled().is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.held.extend_from_slice(space.filled());
        let step = self.machine.step(&self.held);
        self.ready = step.accepted;
        if step.refusal.is_some() {
            self.held.truncate(step.accepted);
        }
        self.quiet = None;
        Poll::Ready(Ok(false))
    }

    /// Passes on what was held back and is now in order.
    fn pass_on(&mut self, buf: &mut ReadBuf<'_>) {
        let bytes = self.ready.min(buf.remaining());
        buf.put_slice(self.held.get(..bytes).unwrap_or_default());
        self.held.advance(bytes);
        self.ready -= bytes;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// Ends the reading: by an answer for a refused head, by an error within a body.
    fn poll_refused(&mut self, refusal: Refusal) -> Poll<io::Result<()>> {
        if self.machine.refused_in_body() {
            self.verdict.fail_body(BodyError::Broken(refusal.detail.into()));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.detail)));
        }
        if !self.stood_in {
            self.stood_in = true;
            self.verdict.refuse(self.machine.heads() + 1, refusal);
            self.held = BytesMut::from(STAND_IN);
            self.ready = STAND_IN.len();
        }
        // Nothing more comes. hyper is woken by its own writes, and closes after the answer.
        Poll::Pending
    }

    /// Waits for bytes within the bound of the phase.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let phase = self.machine.phase();
        let now = *self.quiet.get_or_insert_with(Instant::now);
        let began = match self.began {
            Some((p, number, at)) if p == phase && number == self.machine.heads() => at,
            _ => now,
        };
        self.began = Some((phase, self.machine.heads(), began));
        let Times { head, keep_alive, body_idle, body_total, .. } = self.times;
        match phase {
            Phase::Idle => {
                let bound = if self.machine.heads() == 0 { head } else { keep_alive };
                ready!(self.poll_timer(cx, now + bound.duration()));
                while self.verdict.busy() {
                    // hyper does not read again when an answer ends, so the timer has to look again.
                    self.quiet = Some(Instant::now());
                    ready!(self.poll_timer(cx, Instant::now() + bound.duration()));
                }
                Poll::Ready(Late::Idle)
            }
            Phase::Head => self.poll_timer(cx, began + head.duration()).map(|()| Late::Head),
            Phase::Body | Phase::Refused => {
                let (idle, total) = (now + body_idle.duration(), began + body_total.duration());
                let fault = if idle <= total {
                    BodyError::Idle { ms: body_idle.0 }
                } else {
                    BodyError::Deadline { ms: body_total.0 }
                };
                self.poll_timer(cx, idle.min(total)).map(|()| Late::Body(fault))
            }
        }
    }

    /// Waits until `deadline`.
    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It was set for an earlier bound that has moved since.
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Lets a write go on, or ends it when the client took nothing for too long.
    fn poll_written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            self.quiet = Some(Instant::now());
            return written;
        }
        let since = *self.stuck.get_or_insert_with(Instant::now);
        ready!(self.poll_timer(cx, since + self.times.write_idle.duration()));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready > 0 {
                this.pass_on(buf);
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = this.machine.refusal() {
                match this.poll_refused(refusal) {
                    Poll::Pending if this.ready > 0 => continue,
                    poll => return poll,
                }
            }
            match this.poll_fill(cx, buf) {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            match ready!(this.poll_late(cx)) {
                // hyper takes it for the client's own end.
                Late::Idle => return Poll::Ready(Ok(())),
                Late::Head => this.machine.refuse(HEAD_TOO_SLOW),
                Late::Body(fault) => {
                    this.verdict.fail_body(fault);
                    this.machine.refuse(BODY_TOO_SLOW);
                }
            }
        }
    }
}

const HEAD_TOO_SLOW: Refusal =
    Refusal { reason: Reason::RequestTimeout, detail: "the head did not end within the bound head_timeout" };
const BODY_TOO_SLOW: Refusal = Refusal {
    reason: Reason::RequestTimeout,
    detail: "the body did not come within the bounds body_idle and body_total",
};

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.poll_written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.poll_written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// Ends the answers, then throws away what the client still sends of a
    /// message that was cut: a reset would take the last answer away from it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.closing {
                Closing::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    let whole = this.machine.phase() == Phase::Idle && this.held.is_empty();
                    this.closing = if whole {
                        Closing::Closed
                    } else {
                        Closing::Linger { left: LINGER_BYTES, until: Instant::now() + LINGER }
                    };
                }
                Closing::Linger { left, until } => {
                    let mut space = [0; 4096];
                    let mut space = ReadBuf::new(&mut space);
                    match Pin::new(&mut this.stream).poll_read(cx, &mut space) {
                        Poll::Ready(Ok(())) if !space.filled().is_empty() && *left > 0 => {
                            *left = left.saturating_sub(space.filled().len());
                        }
                        Poll::Ready(_) => this.closing = Closing::Closed,
                        Poll::Pending => {
                            let until = *until;
                            ready!(this.poll_timer(cx, until));
                            this.closing = Closing::Closed;
                        }
                    }
                }
                Closing::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}
