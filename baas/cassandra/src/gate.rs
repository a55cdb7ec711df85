//! What stands before every request: a bound of those in flight, and a breaker that leaves a
//! cluster alone which does not answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use faas_store::StoreError;
use metrics::Unit;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::Requests;

/// The state of a breaker: pure, told the time.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures_max: u32,
    pause: Duration,
    failures: u32,
    /// Until when nobody asks; then one does, and the pause begins anew meanwhile.
    open_until: Option<Instant>,
    /// Whether the one was sent.
    trying: bool,
}

/// A breaker, as told to who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BreakerState {
    /// `closed`, `open`: requests are refused without being sent, or `half_open`: one may try, or does.
    pub state: &'static str,
    /// Failures in a row.
    pub failures: u32,
    /// Failures in a row that open it.
    pub failures_max: u32,
}

impl Breaker {
    pub(crate) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, failures: 0, open_until: None, trying: false }
    }

    /// Returns whether a request may go at `now`, else how long to leave the cluster alone.
    pub(crate) fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(until) = self.open_until else { return Ok(()) };
        if now < until {
            return Err(until - now);
        }
        self.open_until = Some(now + self.pause);
        self.trying = true;
        Ok(())
    }

    /// Notes that the cluster answered.
    pub(crate) fn answered(&mut self) {
        (self.failures, self.open_until, self.trying) = (0, None, false);
    }

    /// Notes that it did not.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.trying = false;
        if self.failures >= self.failures_max {
            self.open_until = Some(now + self.pause);
        }
    }

    /// Returns what it is at `now`.
    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        let state = match self.open_until {
            None => "closed",
            Some(until) if now < until && !self.trying => "open",
            Some(_) => "half_open",
        };
        BreakerState { state, failures: self.failures, failures_max: self.failures_max }
    }

    /// Returns whether requests are refused without being sent.
    pub(crate) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }
}

/// The bound and the breaker.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Semaphore,
    in_flight_max: u32,
    waiting: AtomicU64,
    breaker: Mutex<Breaker>,
    in_flight_gauge: metrics::Gauge,
    waiting_gauge: metrics::Gauge,
    open: metrics::Gauge,
    seconds: metrics::Histogram,
}

/// A request that waits for its turn; dropping it ends the wait.
struct Wait<'a>(&'a Gate);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.waiting_gauge.decrement(1.0);
    }
}

/// A request that is on its way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Passage<'a> {
    gate: &'a Gate,
    _place: SemaphorePermit<'a>,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.gate.in_flight_gauge.decrement(1.0);
    }
}

impl Gate {
    pub(crate) fn new(in_flight_max: u32, breaker: Breaker) -> Self {
        metrics::describe_gauge!("faas_cassandra_in_flight", "Requests to the cluster that are not answered.");
        metrics::describe_gauge!("faas_cassandra_waiting", "Requests to the cluster that wait for their turn.");
        metrics::describe_gauge!("faas_cassandra_breaker_open", "1 while the cluster is left alone.");
        metrics::describe_histogram!(
            "faas_cassandra_request_seconds",
            Unit::Seconds,
            "Time of one request to the cluster."
        );
        Self {
            places: Semaphore::new(in_flight_max as usize),
            in_flight_max,
            waiting: AtomicU64::new(0),
            breaker: Mutex::new(breaker),
            in_flight_gauge: metrics::gauge!("faas_cassandra_in_flight"),
            waiting_gauge: metrics::gauge!("faas_cassandra_waiting"),
            open: metrics::gauge!("faas_cassandra_breaker_open"),
            seconds: metrics::histogram!("faas_cassandra_request_seconds"),
        }
    }

    /// Waits for a place, until `by`.
    ///
    /// # Errors
    /// `Unavailable` while the breaker is open, `Deadline` when no place became free in time.
    pub(crate) async fn pass(&self, by: Instant) -> Result<Passage<'_>, StoreError> {
        let place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(_) => self.wait(by).await?,
        };
        self.breaker().ask(Instant::now()).map_err(|after| StoreError::Unavailable { after })?;
        self.in_flight_gauge.increment(1.0);
        Ok(Passage { gate: self, _place: place })
    }

    async fn wait(&self, by: Instant) -> Result<SemaphorePermit<'_>, StoreError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting_gauge.increment(1.0);
        let _wait = Wait(self);
        match timeout_at(by, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(StoreError::Deadline),
        }
    }

    /// Notes how long a request took, answered or not.
    pub(crate) fn took(&self, time: Duration) {
        self.seconds.record(time.as_secs_f64());
    }

    /// Returns how many requests there are.
    pub(crate) fn requests(&self) -> Requests {
        let free = self.places.available_permits() as u64;
        let in_flight_max = u64::from(self.in_flight_max);
        let in_flight = in_flight_max.saturating_sub(free);
        Requests { in_flight, waiting: self.waiting.load(Ordering::Relaxed), in_flight_max }
    }

    /// Returns what the breaker is now.
    pub(crate) fn state(&self) -> BreakerState {
        self.breaker().state(Instant::now())
    }

    /// Notes whether the cluster answered.
    pub(crate) fn note(&self, answered: bool) {
        let mut breaker = self.breaker();
        if answered {
            breaker.answered();
        } else {
            breaker.failed(Instant::now());
        }
        self.open.set(if breaker.is_open() { 1.0 } else { 0.0 });
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_breaker_opens_at_its_bound_lets_one_try_and_closes_with_an_answer() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, 100 * MS);
        breaker.failed(now);
        breaker.failed(now);
        assert!(breaker.ask(now).is_ok(), "one failure below the bound");
        breaker.failed(now);
        assert_eq!(breaker.ask(now + 40 * MS), Err(60 * MS));
        let is = |breaker: &Breaker, ms| {
            let BreakerState { state, failures, .. } = breaker.state(now + ms * MS);
            (state, failures)
        };
        assert_eq!((is(&breaker, 99), is(&breaker, 100)), (("open", 3), ("half_open", 3)));
        assert_eq!(breaker.ask(now + 100 * MS), Ok(()), "one tries");
        assert_eq!(is(&breaker, 101), ("half_open", 3));
        assert!(breaker.ask(now + 101 * MS).is_err(), "the others wait for what it finds");
        breaker.failed(now + 110 * MS);
        assert_eq!(is(&breaker, 111), ("open", 4));
        assert_eq!(breaker.ask(now + 110 * MS), Err(100 * MS));
        assert_eq!(breaker.ask(now + 210 * MS), Ok(()));
        breaker.answered();
        assert_eq!(is(&breaker, 211), ("closed", 0));
        assert!(breaker.ask(now + 211 * MS).is_ok() && !breaker.is_open());
        breaker.failed(now);
        breaker.answered();
        breaker.failed(now);
        breaker.failed(now);
        assert!(!breaker.is_open(), "failures count in a row");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_in_flight_than_the_bound_and_a_wait_ends_with_the_deadline() {
        let gate = Gate::new(2, Breaker::new(1, 100 * MS));
        let by = Instant::now() + 50 * MS;
        let one = gate.pass(by).await.unwrap();
        let _two = gate.pass(by).await.unwrap();
        assert_eq!(gate.pass(by).await.err(), Some(StoreError::Deadline));
        drop(one);
        assert!(gate.pass(Instant::now() + MS).await.is_ok());
        assert_eq!(gate.requests(), Requests { in_flight: 1, waiting: 0, in_flight_max: 2 });
        let three = gate.pass(by).await.unwrap();
        {
            let mut waits = Box::pin(gate.pass(Instant::now() + MS));
            assert!(futures_util::poll!(&mut waits).is_pending());
            assert_eq!(gate.requests(), Requests { in_flight: 2, waiting: 1, in_flight_max: 2 });
        }
        assert_eq!(gate.requests().waiting, 0, "who leaves waits no more");
        drop(three);
        gate.note(false);
        assert!(matches!(gate.pass(Instant::now() + MS).await, Err(StoreError::Unavailable { .. })));
    }
}
