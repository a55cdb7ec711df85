//! The body of an answer as its guest gives it, by either contract.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiBody};

/// The body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokenOff;

/// A body that a guest writes.
pub(crate) enum Outgoing {
    Handler02(HyperOutgoingBody),
    Handler03 {
        body: WasiBody,
        /// Tells the guest that all of it was taken; dropped unused, that it was not.
        taken: Option<oneshot::Sender<()>>,
    },
}

impl Outgoing {
    /// Takes a body of WASI 0.3 that is made with what tells the guest how its transmission went.
    pub(crate) fn told<E>(
        make: impl FnOnce(TransmissionEnd) -> Result<http::Response<WasiBody>, E>,
    ) -> Result<http::Response<Self>, E> {
        let (taken, end) = oneshot::channel();
        let response = make(TransmissionEnd(end))?;
        Ok(response.map(|body| Self::Handler03 { body, taken: Some(taken) }))
    }

    /// Gives the next part. A guest that `ended` writes no more.
    ///
    /// Trailers are not passed on: HTTP/1.1 clients do not take them.
    pub(crate) fn poll(&mut self, ended: bool, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        loop {
            let frame = match self {
                Self::Handler02(body) => match Pin::new(body).poll_frame(cx) {
                    // What it wrote is there: the rest never comes, though its store lives on.
                    Poll::Pending if ended => return Poll::Ready(Some(Err(BrokenOff))),
                    polled => std::task::ready!(polled).map(|frame| frame.map_err(drop)),
                },
                Self::Handler03 { body, taken } => {
                    let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                    if frame.is_none()
                        && let Some(taken) = taken.take()
                    {
                        // A guest need not wait for it.
                        taken.send(()).ok();
                    }
                    frame.map(|frame| frame.map_err(drop))
                }
            };
            match frame {
                None => return Poll::Ready(None),
                Some(Err(())) => return Poll::Ready(Some(Err(BrokenOff))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}

/// Resolves when an answer was taken, or will not be.
pub(crate) struct TransmissionEnd(oneshot::Receiver<()>);

impl TransmissionEnd {
    pub(crate) async fn wait(self) -> Result<(), Error> {
        self.0.await.map_err(|_| Error::ConnectionTerminated)
    }
}
