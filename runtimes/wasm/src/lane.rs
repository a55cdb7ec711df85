//! The lane for calls that compute: niced threads of their own, so that a loop
//! never holds a thread that serves others.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::Config;
use crate::failure::{self, Ended};
use crate::meter::Meter;

/// How much these threads yield to others.
const NICE: i32 = 10;

/// The threads.
#[derive(Debug)]
pub(crate) struct Lane {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    moved: CounterHandle,
}

struct CounterHandle(metrics::Counter);

impl std::fmt::Debug for CounterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl Lane {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn new(config: &Config) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if config.lane_threads == 0 { cores } else { config.lane_threads.min(256) as usize };
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("faas-wasm-lane")
            .on_thread_start(|| {
                // Without it the threads are only less polite.
                rustix::process::nice(NICE).ok();
            })
            .build()?;
        metrics::describe_counter!("faas_wasm_lane_moves_total", "Calls that computed longer than 10 ms.");
        Ok(Self { runtime: Some(runtime), moved: CounterHandle(metrics::counter!("faas_wasm_lane_moves_total")) })
    }

    /// Goes on with a call here; its timers and I/O stay on the runtime that calls this.
    pub(crate) fn take(&self, call: BoxFuture<'static, Ended>, meter: Arc<Meter>) -> Task {
        self.moved.0.increment(1);
        let moved = Moved { call, meter, home: Handle::current() };
        Task(self.runtime.as_ref().expect("only a drop takes the runtime").spawn(moved))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The ordinary drop blocks, which an async thread may not.
            runtime.shutdown_background();
        }
    }
}

/// A call on the lane.
struct Moved {
    call: BoxFuture<'static, Ended>,
    meter: Arc<Meter>,
    home: Handle,
}

impl Future for Moved {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        let _home = this.home.enter();
        this.meter.begin();
        this.call.as_mut().poll(cx)
    }
}

/// A call that runs as a task; dropping this ends it.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) tokio::task::JoinHandle<Ended>);

impl Future for Task {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        Pin::new(&mut self.get_mut().0).poll(cx).map(|joined| joined.unwrap_or_else(|_| Err(failure::cut())))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
