//! CPU time of one call, counted in ticks of the engine's clock.
//!
//! A tick that falls into a poll of the call is charged whole, the others are
//! not: exact on average, and a call that waits is charged nothing. When more
//! ticks fell into a poll since the guest was last interrupted, as in a long
//! host call, so many are charged as the thread's own CPU time tells: a thread
//! that had to wait for its core is not charged for that.
//!
//! Whether a call computes long is another question, and luck must not answer it: a tick falls into
//! a call of 0.1 ms as well, once in a hundred. The thread's CPU time answers it, in polls with a tick.
//!
//! To ask for it is a system call, which a thread makes once a tick; from there on it is taken to have
//! run all the time. Where it had not, a call seems to have computed less, until its next tick.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

use crate::engine::TICK;

/// CPU time of a call that is long for a thread that serves others.
const LONG: Duration = Duration::from_millis(2);

/// Counts one call's ticks.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Arc<AtomicU64>,
    ticks_max: u32,
    /// Calls that share what is counted.
    calls: AtomicU32,
    /// CPU time that makes a guest hot, in nanoseconds.
    long: u64,
    /// The clock when the present poll began, or at the last tick charged.
    seen: AtomicU64,
    /// The thread's CPU time at the same moment, in nanoseconds.
    busy: AtomicU64,
    /// CPU time of the polls into which a tick fell, in nanoseconds.
    spent: AtomicU64,
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
        let (seen, busy) = (AtomicU64::new(now), AtomicU64::new(thread_busy_at_most(now)));
        let (spent, used, over) = (AtomicU64::new(0), AtomicU32::new(0), AtomicBool::new(false));
        Self { clock, ticks_max, calls: AtomicU32::new(1), long: nanos(LONG), seen, busy, spent, used, over }
    }

    /// Counts for a store whose calls run side by side, between two moments at which one begins
    /// or is answered: while one of them computes, none of the others gets there.
    pub(crate) fn shared(clock: Arc<AtomicU64>, ticks_max: u32) -> Self {
        // Several calls may each have computed a little since one of them was answered.
        Self { long: nanos(TICK), ..Self::new(clock, ticks_max) }
    }

    /// Begins to count anew: one of the calls began or was answered, and so many are not.
    pub(crate) fn progress(&self, calls: usize) {
        self.used.store(0, Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
        self.calls.store(u32::try_from(calls).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
    }

    /// Notes that a poll of the call begins.
    pub(crate) fn begin(&self) {
        let now = self.clock.load(Ordering::Relaxed);
        self.seen.store(now, Ordering::Relaxed);
        self.busy.store(thread_busy_at_most(now), Ordering::Relaxed);
    }

    /// Notes that the poll is over. What it spent counts although the guest was not interrupted: it may
    /// have spent it in a host call, or be done.
    pub(crate) fn end(&self) {
        if self.clock.load(Ordering::Relaxed) != self.seen.load(Ordering::Relaxed) {
            self.lap();
        }
    }

    /// Counts, and returns, the CPU time since the poll began or a tick was charged.
    fn lap(&self) -> u64 {
        let now = thread_busy();
        let busy = now.saturating_sub(self.busy.swap(now, Ordering::Relaxed));
        self.spent.store(self.spent.load(Ordering::Relaxed).saturating_add(busy), Ordering::Relaxed);
        busy
    }

    /// Charges the ticks that fell into the present poll; called by the guest at every missed deadline.
    pub(crate) fn tick(&self) -> wasmtime::Result<UpdateDeadline> {
        let now = self.clock.load(Ordering::Relaxed);
        let seen = self.seen.swap(now, Ordering::Relaxed);
        if seen == now {
            // The deadline passed while the call waited.
            return Ok(UpdateDeadline::Continue(1));
        }
        let due = due(now.saturating_sub(seen), self.lap());
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
        self.spent.load(Ordering::Relaxed) >= self.long
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the CPU time of this thread, in nanoseconds, or more if it had to wait for its core since the clock told `tick`.
fn thread_busy_at_most(tick: u64) -> u64 {
    thread_local!(static READ: Cell<Option<(u64, u64, Instant)>> = const { Cell::new(None) });
    let now = Instant::now();
    match READ.get() {
        Some((at, busy, read)) if at == tick => busy.saturating_add(nanos(now.saturating_duration_since(read))),
        _ => {
            let busy = thread_busy();
            READ.set(Some((tick, busy, now)));
            busy
        }
    }
}

/// Returns the CPU time of this thread, in nanoseconds.
fn thread_busy() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (s, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    s.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(ns.unwrap_or(0))
}

/// Computes for so much CPU time.
#[cfg(test)]
pub(crate) fn compute(time: Duration) {
    let begun = thread_busy();
    while thread_busy() < begun + nanos(time) {}
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
        assert!(charged(&meter) && !charged(&meter), "one tick is charged once");
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
        compute(TICK * 5);
        clock.fetch_add(5, Ordering::Relaxed);
        assert!(meter.tick().is_err() && meter.is_over(), "five ticks are over three");
    }

    #[test]
    fn only_what_was_computed_makes_a_call_hot_however_many_ticks_fell_into_it() {
        let clock = Arc::new(AtomicU64::new(0));
        let tick = || clock.fetch_add(1, Ordering::Relaxed);
        let meter = Meter::new(Arc::clone(&clock), 100);
        for _ in 0..10 {
            meter.begin();
            tick();
            assert!(charged(&meter) && !meter.is_hot(), "a short call is no long one because a tick fell into it");
        }
        compute(LONG);
        tick();
        assert!(charged(&meter) && meter.is_hot());
    }

    #[test]
    fn a_long_poll_is_seen_though_the_guest_was_not_interrupted() {
        let clock = Arc::new(AtomicU64::new(0));
        let meter = Meter::new(Arc::clone(&clock), 100);
        meter.begin();
        compute(LONG * 5);
        meter.end();
        assert!(!meter.is_hot(), "no tick fell into it, and the CPU time is not read for nothing");
        clock.fetch_add(1, Ordering::Relaxed);
        meter.end();
        assert!(meter.is_hot());
    }

    #[test]
    fn a_thread_asks_for_its_time_once_a_tick_and_counts_as_running_until_the_next() {
        let asked = thread_busy_at_most(7);
        compute(LONG);
        let still = thread_busy_at_most(7);
        // What waits for its core meanwhile only makes it more.
        assert!(still >= thread_busy() - nanos(LONG) / 2 && still >= asked + nanos(LONG));
        assert!(thread_busy_at_most(8) <= thread_busy(), "a new tick, a new look");
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
        for hot in [false, true] {
            assert!(!meter.is_hot());
            clock.fetch_add(1, Ordering::Relaxed);
            compute(if hot { TICK } else { LONG });
            assert!(charged(&meter) && meter.is_hot() == hot, "others computed, too, since one was answered");
        }
        clock.fetch_add(1, Ordering::Relaxed);
        assert!(meter.tick().is_err() && meter.is_over(), "the third tick is over the limit of one call");
    }
}
