//! The lane for calls that compute: niced threads of their own, so that a loop
//! never holds a thread that serves others.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::Config;
use crate::failure::{self, Ended};
use crate::meter::Meter;

/// How much these threads yield to others.
const NICE: i32 = 10;
/// Calls that begin on the lane after one that computed long, until so many in a row did not.
const WARY: u32 = 8;

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
        metrics::describe_counter!(
            "faas_wasm_lane_moves_total",
            "Calls that computed longer than 10 ms, or began as if they would."
        );
        Ok(Self { runtime: Some(runtime), moved: CounterHandle(metrics::counter!("faas_wasm_lane_moves_total")) })
    }

    fn spawn(&self, moved: Moved) -> Task {
        self.moved.0.increment(1);
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

/// A revision's way to the lane. It remembers whether calls computed long lately: the next ones
/// begin there, so that each does not first hold a thread that serves others for a tick.
#[derive(Debug)]
pub(crate) struct Ramp {
    lane: Arc<Lane>,
    wary: AtomicU32,
}

// Everything is relaxed: it is a guess about calls to come.
impl Ramp {
    pub(crate) fn new(lane: &Arc<Lane>) -> Arc<Self> {
        Arc::new(Self { lane: Arc::clone(lane), wary: AtomicU32::new(0) })
    }

    /// Returns whether a call is to go on the lane before it has computed long.
    pub(crate) fn is_wary(&self) -> bool {
        self.wary.load(Ordering::Relaxed) > 0
    }

    /// Notes that a call computed long.
    pub(crate) fn beware(&self) {
        self.wary.store(WARY, Ordering::Relaxed);
    }

    /// Goes on with a call on the lane; its timers and I/O stay on the runtime that calls this.
    pub(crate) fn take(self: &Arc<Self>, call: BoxFuture<'static, Ended>, meter: Arc<Meter>) -> Task {
        self.lane.spawn(Moved { call, meter, home: Handle::current(), ramp: Arc::clone(self) })
    }
}

/// A call on the lane.
struct Moved {
    call: BoxFuture<'static, Ended>,
    meter: Arc<Meter>,
    home: Handle,
    ramp: Arc<Ramp>,
}

impl Drop for Moved {
    /// Ended or cut, the call is a sign of what the next ones are like.
    fn drop(&mut self) {
        if self.meter.is_hot() {
            self.ramp.beware();
            return;
        }
        let less = |wary: u32| wary.checked_sub(1);
        // None is left when others have counted down meanwhile.
        let _before = self.ramp.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Future for Moved {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        let _home = this.home.enter();
        this.meter.begin();
        let polled = this.call.as_mut().poll(cx);
        this.meter.end();
        polled
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use std::future::poll_fn;

    use super::*;
    use crate::call::Guest;
    use crate::meter;

    /// Runs a call into which a tick falls, a long or a short one, and tells whether it began on the lane.
    async fn began_on_lane(ramp: &Arc<Ramp>, long: bool) -> bool {
        let clock = Arc::new(AtomicU64::new(0));
        let meter = Arc::new(Meter::new(Arc::clone(&clock), 100));
        let (metered, (told, thread)) = (Arc::clone(&meter), tokio::sync::oneshot::channel());
        let mut guest = Guest::Here(Box::pin(async move {
            told.send(std::thread::current().name().map(str::to_owned)).unwrap();
            if long {
                meter::compute(crate::engine::TICK);
            }
            clock.fetch_add(1, Ordering::Relaxed);
            metered.tick().unwrap();
            Ok(())
        }));
        poll_fn(|cx| guest.poll(&meter, ramp, cx)).await.unwrap();
        thread.await.unwrap().is_some_and(|name| name.starts_with("faas-wasm-lane"))
    }

    fn ramp() -> Arc<Ramp> {
        Ramp::new(&Arc::new(Lane::new(&Config { lane_threads: 1, ..Config::default() }).unwrap()))
    }

    #[tokio::test]
    async fn after_a_call_that_computed_long_calls_begin_on_the_lane_until_enough_did_not() {
        let ramp = ramp();
        assert!(!began_on_lane(&ramp, false).await && !began_on_lane(&ramp, true).await, "nothing is known before");
        for round in 0..2 {
            for _ in 1..WARY {
                assert!(began_on_lane(&ramp, false).await);
            }
            assert!(began_on_lane(&ramp, round == 0).await);
        }
        assert!(!began_on_lane(&ramp, false).await, "so many were short");
    }

    #[tokio::test]
    async fn a_call_that_is_cut_on_the_lane_counts_by_what_it_computed() {
        let ramp = ramp();
        assert!(!began_on_lane(&ramp, true).await);
        let (clock, gone) = (Arc::new(AtomicU64::new(0)), tokio::sync::oneshot::channel::<()>());
        let meter = Arc::new(Meter::new(Arc::clone(&clock), 100));
        let held = gone.0;
        drop(ramp.take(
            Box::pin(async move {
                let _held = held;
                std::future::pending().await
            }),
            meter,
        ));
        gone.1.await.unwrap_err();
        for _ in 1..WARY {
            assert!(began_on_lane(&ramp, false).await);
        }
        assert!(!began_on_lane(&ramp, false).await, "the call that was cut was one of them");
    }
}
