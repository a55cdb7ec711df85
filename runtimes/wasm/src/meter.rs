//! CPU time of one call, counted in ticks of the engine's clock.
//!
//! A tick that falls into a poll of the call is charged whole, the others are
//! not: exact on average, and a call that waits is charged nothing. When more
//! ticks fell into a poll since the guest was last interrupted, as in a long
//! host call, so many are charged as the thread's own CPU time tells: a thread
//! that had to wait for its core is not charged for that. A thread asks for its
//! CPU time once a tick, because that is a system call: what is told of a poll
//! may begin up to a tick before it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

use crate::engine::TICK;

/// Counts one call's ticks.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Arc<AtomicU64>,
    ticks_max: u32,
    /// Calls that share what is counted.
    calls: AtomicU32,
    /// Ticks that do not yet make a guest hot.
    warm: u32,
    /// The clock when the present poll began, or at the last tick charged.
    seen: AtomicU64,
    /// The thread's CPU time at the same moment, in nanoseconds.
    busy: AtomicU64,
    used: AtomicU32,
    over: AtomicBool,
}

/// The call used more CPU time than it may.
#[derive(Debug, thiserror::Error)]
#[error("the call is over its CPU limit")]
pub(crate) struct OverCpu;

// Everything is relaxed: a call is polled by one thread at a time, and handing
// its future to another thread orders the two.
impl Meter {
    pub(crate) fn new(clock: Arc<AtomicU64>, ticks_max: u32) -> Self {
        let now = clock.load(Ordering::Relaxed);
        let (seen, busy) = (AtomicU64::new(now), AtomicU64::new(thread_busy_about(now)));
        let (used, over) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { clock, ticks_max, calls: AtomicU32::new(1), warm: 0, seen, busy, used, over }
    }

    /// Counts for a store whose calls run side by side, between two moments at which one begins
    /// or is answered: while one of them computes, none of the others gets there.
    pub(crate) fn shared(clock: Arc<AtomicU64>, ticks_max: u32) -> Self {
        // One tick says little of a store that is often at work; two are 10 ms without a pause.
        Self { warm: 1, ..Self::new(clock, ticks_max) }
    }

    /// Begins to count anew: one of the calls began or was answered, and so many are not.
    pub(crate) fn progress(&self, calls: usize) {
        self.used.store(0, Ordering::Relaxed);
        self.calls.store(u32::try_from(calls).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
    }

    /// Notes that a poll of the call begins.
    pub(crate) fn begin(&self) {
        let now = self.clock.load(Ordering::Relaxed);
        self.seen.store(now, Ordering::Relaxed);
        self.busy.store(thread_busy_about(now), Ordering::Relaxed);
    }

    /// Charges the ticks that fell into the present poll; called by the guest at every missed deadline.
    pub(crate) fn tick(&self) -> wasmtime::Result<UpdateDeadline> {
        let now = self.clock.load(Ordering::Relaxed);
        let seen = self.seen.swap(now, Ordering::Relaxed);
        if seen == now {
            // The deadline passed while the call waited.
            return Ok(UpdateDeadline::Continue(1));
        }
        let busy = thread_busy();
        let busy = busy.saturating_sub(self.busy.swap(busy, Ordering::Relaxed));
        let due = due(now.saturating_sub(seen), busy);
        let used = self.used.load(Ordering::Relaxed).saturating_add(due);
        self.used.store(used, Ordering::Relaxed);
        if used > self.ticks_max.saturating_mul(self.calls.load(Ordering::Relaxed)) {
            self.over.store(true, Ordering::Relaxed);
            return Err(OverCpu.into());
        }
        Ok(UpdateDeadline::Yield(1))
    }

    /// Returns whether the call has computed long enough to leave the threads that serve others.
    pub(crate) fn is_hot(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.warm
    }

    /// Returns whether the call was ended for its CPU time.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Returns what is charged when `ticks` passed in a poll and its thread computed for `busy` nanoseconds.
fn due(ticks: u64, busy: u64) -> u32 {
    let whole = u128::from(busy) / TICK.as_nanos();
    u32::try_from(whole.min(ticks.into()).max(1)).unwrap_or(u32::MAX)
}

/// Returns the CPU time of this thread, in nanoseconds.
fn thread_busy() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (s, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    s.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(ns.unwrap_or(0))
}

/// Returns the CPU time of this thread at some moment since the clock told `tick`, in nanoseconds.
fn thread_busy_about(tick: u64) -> u64 {
    thread_local!(static READ: Cell<(u64, u64)> = const { Cell::new((u64::MAX, 0)) });
    let (read_at, busy) = READ.get();
    if read_at == tick {
        return busy;
    }
    let busy = thread_busy();
    READ.set((tick, busy));
    busy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charged(meter: &Meter) -> bool {
        matches!(meter.tick(), Ok(UpdateDeadline::Yield(1)))
    }

    #[test]
    fn a_tick_within_a_poll_is_charged_and_one_between_polls_is_not() {
        let clock = Arc::new(AtomicU64::new(7));
        let meter = Meter::new(Arc::clone(&clock), 2);
        clock.fetch_add(100, Ordering::Relaxed);
        meter.begin();
        assert!(!charged(&meter) && !meter.is_hot());
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(charged(&meter) && meter.is_hot());
        assert!(!charged(&meter), "one tick is charged once");
        meter.begin();
        assert!(!charged(&meter));
    }

    #[test]
    fn all_ticks_of_a_long_host_call_are_charged_and_none_of_a_wait_for_the_core() {
        let ms = 1_000_000;
        assert_eq!(due(400, 4000 * ms), 400);
        assert_eq!((due(1, 0), due(1, 40 * ms)), (1, 1), "one tick is one, however little of it was the call's");
        assert_eq!((due(50, 0), due(50, 25 * ms)), (1, 2));
        let clock = Arc::new(AtomicU64::new(0));
        let meter = Meter::new(Arc::clone(&clock), 3);
        meter.begin();
        let begun = thread_busy();
        while thread_busy() < begun + 50 * ms {}
        clock.fetch_add(5, Ordering::Relaxed);
        assert!(meter.tick().is_err() && meter.is_over(), "five ticks are over three");
    }

    #[test]
    fn the_first_tick_over_the_limit_ends_the_call() {
        let clock = Arc::new(AtomicU64::new(0));
        let meter = Meter::new(Arc::clone(&clock), 1);
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(charged(&meter) && !meter.is_over());
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(meter.tick().is_err() && meter.is_over());
    }

    #[test]
    fn calls_side_by_side_share_a_limit_that_begins_anew_with_each_answer() {
        let clock = Arc::new(AtomicU64::new(0));
        let meter = Meter::shared(Arc::clone(&clock), 2);
        meter.progress(2);
        for _ in 0..4 {
            clock.fetch_add(1, Ordering::Relaxed);
            assert!(charged(&meter), "two calls may have two ticks each");
        }
        meter.progress(1);
        assert!(!meter.is_hot());
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(charged(&meter) && !meter.is_hot(), "one tick says little of a store that is often at work");
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(charged(&meter) && meter.is_hot());
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(meter.tick().is_err() && meter.is_over(), "the third tick is over the limit of one call");
    }
}
