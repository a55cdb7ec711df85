//! The connection's bytes: TCP or TLS, with the [`Guard`] in front of the library's parser.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, TLSConfig};
use lapin::uri::AMQPUri;

use super::guard::Guard;

type Plain = <Tokio as Reactor>::TcpStream;
/// Read from the socket at once, at most.
const CHUNK: usize = 64 << 10;

/// Opens the transport of `uri`, with the platform's root certificates for `amqps`.
pub(super) async fn connect(uri: AMQPUri, kit: Runtime<Kit>) -> lapin::Result<AsyncTcpStream<Guarded>> {
    let tokio = Runtime::new(kit_of(&kit));
    let inner = uri.connect_with_config_async(TLSConfig::default(), &tokio).await?;
    Ok(AsyncTcpStream::Plain(Guarded::new(inner)))
}

fn kit_of(_: &Runtime<Kit>) -> Tokio {
    // The library polls this on a thread of its own that has entered the runtime.
    Tokio::current()
}

/// A transport whose reading side went through the guard.
pub(super) struct Guarded {
    inner: AsyncTcpStream<Plain>,
    guard: Guard,
    ready: Vec<u8>,
    taken: usize,
    chunk: Box<[u8]>,
}

impl Guarded {
    fn new(inner: AsyncTcpStream<Plain>) -> Self {
        Self { inner, guard: Guard::default(), ready: Vec::new(), taken: 0, chunk: vec![0; CHUNK].into() }
    }

    fn hand_over(&mut self, buf: &mut [u8]) -> usize {
        let waiting = self.ready.get(self.taken..).unwrap_or_default();
        let length = waiting.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), waiting.get(..length)) {
            to.copy_from_slice(from);
        }
        self.taken += length;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
        length
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        while this.ready.is_empty() {
            let length = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.chunk))?;
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            let chunk = this.chunk.get(..length).unwrap_or_default();
            this.guard
                .feed(chunk, &mut this.ready)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the broker sent a frame over 4 MiB"))?;
        }
        Poll::Ready(Ok(this.hand_over(buf)))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// tokio as the library's runtime, with [`Guarded`] for its streams.
#[derive(Debug, Clone)]
pub(super) struct Kit(Tokio);

impl Kit {
    /// Returns the kit of the runtime this is called on.
    pub(super) fn current() -> Runtime<Self> {
        Runtime::new(Self(Tokio::current()))
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, f: F) -> Task<Self::Task<T>> {
        self.0.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, f: F) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(f)
    }
}

impl Reactor for Kit {
    type TcpStream = Guarded;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    #[allow(clippy::disallowed_types, reason = "the foreign trait says std's Instant")]
    fn interval(&self, dur: Duration) -> impl futures_util::Stream<Item = std::time::Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(addr);
        async move { Ok(Guarded::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}
