//! The hardened HTTP/1.1 listener that every listener of the platform uses.
//!
//! hyper parses and answers; before it sees a byte the head machine has read
//! every head of the connection and refused what is ambiguous. Bounds: heads,
//! connections and the time of each phase, all in [`Config`]. HTTP/1.1 and 1.0 only.

mod connection;
#[cfg(fuzzing)]
pub mod fuzz;
mod inherited;
mod machine;
mod socket;
mod upload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use faas_model::units::{ByteSize, Millis};
use faas_model::{Body, Component};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use inherited::Inherited;

/// Connections accepted after the stop at most: as many as the kernel lets wait (`net.core.somaxconn`).
const BACKLOG_MAX: usize = 4096;

/// Answers one request. Dropping the future cancels: the client left.
pub type Handler = Arc<dyn Fn(http::Request<Body>, Peer) -> BoxFuture<'static, http::Response<Body>> + Send + Sync>;

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client's end of the connection.
    pub address: SocketAddr,
}

/// The bounds of a listener. Each refusal names the one that fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest header section of a request, line ends included; default 32 KiB, at most 1 MiB.
    pub header_bytes_max: ByteSize,
    /// Most header fields of a request; default 100, at most 1000.
    pub headers_max: usize,
    /// Longest request target; default 8 KiB, at most 60 KiB.
    pub uri_bytes_max: ByteSize,
    /// Open connections at most; further ones wait in the kernel's backlog. Default 8192.
    pub connections_max: usize,
    /// From the first byte of a head to its last, and from the connection to its first byte; default 10 s.
    pub head_timeout: Millis,
    /// How long a connection without a request is kept; default 60 s.
    pub keep_alive: Millis,
    /// Between two bytes of a request body that is waited for; default 30 s.
    pub body_idle: Millis,
    /// A whole request body; default 15 min.
    pub body_total: Millis,
    /// How long a client may take no byte of an answer; default 30 s.
    pub write_idle: Millis,
    /// How long after the stop a client may still send on an open connection, to be told with the answer
    /// that it closes; default 1 s, at most the grace period.
    pub lame_duck: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header_bytes_max: ByteSize::kib(32),
            headers_max: 100,
            uri_bytes_max: ByteSize::kib(8),
            connections_max: 8192,
            head_timeout: Millis::seconds(10),
            keep_alive: Millis::seconds(60),
            body_idle: Millis::seconds(30),
            body_total: Millis::seconds(15 * 60),
            write_idle: Millis::seconds(30),
            lame_duck: Millis::seconds(1),
        }
    }
}

impl Config {
    /// Returns the bounds of a head, those of the field docs applied.
    fn limits(&self) -> machine::Limits {
        let bytes = |size: ByteSize, max: usize| usize::try_from(size.0).map_or(max, |n| n.min(max));
        machine::Limits {
            uri_bytes_max: bytes(self.uri_bytes_max, 60 << 10),
            header_bytes_max: bytes(self.header_bytes_max, 1 << 20),
            headers_max: self.headers_max.min(1000),
        }
    }
}

/// What all connections of one listener share.
struct Listener {
    config: Config,
    limits: machine::Limits,
    component: Component,
    handler: Handler,
    metrics: connection::Metrics,
    /// A [`Stop`]; it closes before `drain` is cancelled, so that a connection can look without a lock.
    stopping: AtomicU8,
    drain: CancellationToken,
}

/// How far the end of a listener has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// It serves.
    No,
    /// Every answer says that its connection closes.
    Announced,
    /// Connections without a request close at once.
    Closes,
}

impl Listener {
    fn stop(&self) -> Stop {
        match self.stopping.load(Ordering::Acquire) {
            0 => Stop::No,
            1 => Stop::Announced,
            _ => Stop::Closes,
        }
    }

    fn set_stop(&self, stop: Stop) {
        self.stopping.store(stop as u8, Ordering::Release);
    }
}

/// Accepts connections of `listener` and answers their requests with `handler`
/// until `stop`.
///
/// After `stop` only what waits in the kernel's backlog is accepted, connections close after the answer they are
/// in or the next one, which says so; those without a request close after
/// `lame_duck`, and what still runs after `grace` is cut. Refusals carry `component`.
///
/// # Cancel safety
/// Dropping the future cuts every connection.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    component: Component,
    handler: Handler,
    stop: CancellationToken,
    grace: Duration,
) {
    let shared = Arc::new(Listener {
        limits: config.limits(),
        metrics: connection::Metrics::new(component),
        component,
        handler,
        stopping: AtomicU8::new(Stop::No as u8),
        drain: CancellationToken::new(),
        config,
    });
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(shared.config.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, peer, place) = accept(&listener, &places) => {
                connections.spawn(connection::run(shared.clone(), stream, peer, place));
            }
        }
    }
    if let Err(error) = accept_waiting(listener, &places, |stream, peer, place| {
        connections.spawn(connection::run(shared.clone(), stream, peer, place));
    }) {
        warn!(%error, "connections that waited to be accepted are reset");
    }
    let until = Instant::now() + grace;
    shared.set_stop(Stop::Announced);
    let lame_duck = shared.config.lame_duck.duration().min(grace);
    if timeout(lame_duck, all_ended(&mut connections)).await.is_err() {
        shared.set_stop(Stop::Closes);
        shared.drain.cancel();
    }
    if timeout_at(until, all_ended(&mut connections)).await.is_err() {
        warn!(connections = connections.len(), ?component, "cutting what still runs after the grace period");
        connections.shutdown().await;
    }
    info!(?component, "listener has stopped");
}

/// Waits for the last connection's end.
async fn all_ended(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// Waits for a place, then for a connection to fill it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, Peer, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            // Nobody closes the semaphore.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, address)) => return (stream, Peer { address }, place),
            Err(error) => {
                // Out of descriptors, or a client that left in the backlog: neither ends the listener.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Accepts what waits in the backlog, at most [`BACKLOG_MAX`] connections, and closes the listener:
/// their clients have sent requests perhaps, and a close would reset them.
fn accept_waiting(
    listener: TcpListener,
    places: &Arc<Semaphore>,
    mut run: impl FnMut(TcpStream, Peer, OwnedSemaphorePermit),
) -> std::io::Result<()> {
    // Not through tokio, which may not have heard of them yet.
    let listener = listener.into_std()?;
    for _ in 0..BACKLOG_MAX {
        let Ok(place) = places.clone().try_acquire_owned() else { break };
        match listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                run(TcpStream::from_std(stream)?, Peer { address }, place);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}
