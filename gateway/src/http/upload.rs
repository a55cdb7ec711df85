//! The request's body: bounded by the function's limit, its end in error told
//! both to the function and to the one who waits for the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use faas_model::{Body, BodyError};
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Tells how the body that is on its way ended, if in error.
#[derive(Debug, Default, Clone)]
pub(super) struct Upload(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    fault: Mutex<Option<BodyError>>,
    waker: AtomicWaker,
}

impl Upload {
    /// Returns why the body failed, or has the task woken when it does.
    pub(super) fn poll_fault(&self, cx: &Context<'_>) -> Option<BodyError> {
        self.0.waker.register(cx.waker());
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, fault: &BodyError) {
        *self.0.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.clone());
        self.0.waker.wake();
    }
}

/// Returns `body` bounded to `max` bytes, and what tells of its end if it still is to come.
///
/// # Errors
/// [`BodyError::TooLarge`] when its announced length is over `max` already.
pub(super) fn bounded(body: Body, max: u64) -> Result<(Body, Option<Upload>), BodyError> {
    if body.size_hint().lower() > max {
        return Err(BodyError::TooLarge { max });
    }
    if !matches!(body, Body::Stream(_)) {
        return Ok((body, None));
    }
    let upload = Upload::default();
    Ok((Body::stream(Bounded { inner: body, left: max, max, upload: upload.clone() }), Some(upload)))
}

struct Bounded {
    inner: Body,
    left: u64,
    max: u64,
    upload: Upload,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        let fault = match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(bytes) {
                    Some(left) => {
                        this.left = left;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    None => BodyError::TooLarge { max: this.max },
                }
            }
            Some(Err(fault)) => fault,
            None => return Poll::Ready(None),
        };
        this.inner = Body::Empty;
        this.upload.fail(&fault);
        Poll::Ready(Some(Err(fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
