//! A guest's standard output and error, into the function's log by line.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use faas_runtime::logs::{CallLog, Stream};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of one write at most.
const WRITE_BYTES_MAX: usize = 16 << 10;

/// Where the output of a store goes at present: the log of each of its calls in turn.
#[derive(Debug, Default)]
pub(crate) struct CurrentLog(Mutex<Option<Arc<CallLog>>>);

impl CurrentLog {
    pub(crate) fn new(log: &Arc<CallLog>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Arc::clone(log)))))
    }

    /// Goes on with another log; between calls there is none, and nothing writes.
    pub(crate) fn turn_to(&self, log: Option<Arc<CallLog>>) {
        *self.lock() = log;
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &*self.lock() {
            log.write(stream, bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<CallLog>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the two streams of a store. Writing never waits: the log drops and counts.
#[derive(Clone)]
pub(crate) struct Output {
    log: Arc<CurrentLog>,
    stream: Stream,
}

impl Output {
    pub(crate) fn new(log: &Arc<CurrentLog>, stream: Stream) -> Self {
        Self { log: Arc::clone(log), stream }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.log.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
