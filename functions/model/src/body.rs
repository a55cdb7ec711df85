//! Bodies of events and replies: byte streams with back-pressure, and a short
//! form for the small ones that need none.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes came than the bound allows.
    #[error("body is over its limit of {max} bytes")]
    TooLarge {
        /// The bound, in bytes.
        max: u64,
    },
    /// No byte came within the idle bound.
    #[error("no byte of the body came within {ms} ms")]
    Idle {
        /// The bound, in milliseconds.
        ms: u64,
    },
    /// The whole body did not come within its time.
    #[error("the body did not end within {ms} ms")]
    Deadline {
        /// The bound, in milliseconds.
        ms: u64,
    },
    /// The function ended before its body did.
    #[error("the function ended before its answer did: {0}")]
    Function(String),
    /// The other side left or broke the framing.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// A body of unknown or known length. Small ones skip the stream machinery.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// Bytes as they come; polled only as fast as they are taken.
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// Returns a streaming body.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self::Stream(UnsyncBoxBody::new(body))
    }

    /// Returns the body with a bound on its bytes; the error comes at the first byte too many.
    #[must_use]
    pub fn limited(self, max: u64) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Full(bytes) if bytes.len() as u64 <= max => Self::Full(bytes),
            other => Self::stream(Limited { inner: other, left: max, max }),
        }
    }

    /// Collects at most `max` bytes.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] over `max`, or what the stream failed with.
    pub async fn collect(self, max: u64) -> Result<Bytes, BodyError> {
        match self.limited(max) {
            Self::Empty => Ok(Bytes::new()),
            Self::Full(bytes) => Ok(bytes),
            Self::Stream(stream) => Ok(http_body_util::BodyExt::collect(stream).await?.to_bytes()),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

/// A body that fails at the first byte over its bound.
#[derive(Debug)]
pub struct Limited {
    inner: Body,
    left: u64,
    max: u64,
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, |d| d.len() as u64);
            match this.left.checked_sub(bytes) {
                Some(left) => this.left = left,
                None => {
                    this.inner = Body::Empty;
                    return Poll::Ready(Some(Err(BodyError::TooLarge { max: this.max })));
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &'static [&'static str]) -> Body {
        let frames = parts.iter().map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes()))));
        Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test]
    async fn a_limit_lets_its_own_size_pass_and_no_byte_more() {
        assert_eq!(Body::from("abcd").collect(4).await.unwrap(), "abcd");
        assert_eq!(Body::from("abcd").collect(3).await, Err(BodyError::TooLarge { max: 3 }));
        assert_eq!(chunks(&["ab", "cd"]).collect(4).await.unwrap(), "abcd");
        assert_eq!(chunks(&["ab", "cd"]).collect(3).await, Err(BodyError::TooLarge { max: 3 }));
        assert_eq!(Body::Empty.collect(0).await.unwrap(), "");
    }

    #[test]
    fn sizes_are_known_where_they_can_be() {
        assert_eq!(Body::from("abc").size_hint().exact(), Some(3));
        assert_eq!(Body::from("").size_hint().exact(), Some(0));
        assert!(Body::from("").is_end_stream());
        assert!(!Body::from("a").is_end_stream());
    }
}
