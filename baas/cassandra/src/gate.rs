//! What stands before every request: a bound of those in flight, and a breaker that leaves a
//! cluster alone which does not answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use faas_store::StoreError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// The state of a breaker: pure, told the time.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures_max: u32,
    pause: Duration,
    failures: u32,
    /// Until when nobody asks; then one does, and the pause begins anew meanwhile.
    open_until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, failures: 0, open_until: None }
    }

    /// Returns whether a request may go at `now`, else how long to leave the cluster alone.
    pub(crate) fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(until) = self.open_until else { return Ok(()) };
        if now < until {
            return Err(until - now);
        }
        self.open_until = Some(now + self.pause);
        Ok(())
    }

    /// Notes that the cluster answered.
    pub(crate) fn answered(&mut self) {
        (self.failures, self.open_until) = (0, None);
    }

    /// Notes that it did not.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.failures_max {
            self.open_until = Some(now + self.pause);
        }
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
    breaker: Mutex<Breaker>,
    in_flight: metrics::Gauge,
    open: metrics::Gauge,
}

/// A request that is on its way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Passage<'a> {
    gate: &'a Gate,
    _place: SemaphorePermit<'a>,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.gate.in_flight.decrement(1.0);
    }
}

impl Gate {
    pub(crate) fn new(in_flight_max: u32, breaker: Breaker) -> Self {
        metrics::describe_gauge!("faas_cassandra_in_flight", "Requests to the cluster that are not answered.");
        metrics::describe_gauge!("faas_cassandra_breaker_open", "1 while the cluster is left alone.");
        Self {
            places: Semaphore::new(in_flight_max as usize),
            breaker: Mutex::new(breaker),
            in_flight: metrics::gauge!("faas_cassandra_in_flight"),
            open: metrics::gauge!("faas_cassandra_breaker_open"),
        }
    }

    /// Waits for a place, until `by`.
    ///
    /// # Errors
    /// `Unavailable` while the breaker is open, `Deadline` when no place became free in time.
    pub(crate) async fn pass(&self, by: Instant) -> Result<Passage<'_>, StoreError> {
        let place = match timeout_at(by, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(StoreError::Deadline),
        };
        self.breaker().ask(Instant::now()).map_err(|after| StoreError::Unavailable { after })?;
        self.in_flight.increment(1.0);
        Ok(Passage { gate: self, _place: place })
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
        assert_eq!(breaker.ask(now + 100 * MS), Ok(()), "one tries");
        assert!(breaker.ask(now + 101 * MS).is_err(), "the others wait for what it finds");
        breaker.failed(now + 110 * MS);
        assert_eq!(breaker.ask(now + 110 * MS), Err(100 * MS));
        assert_eq!(breaker.ask(now + 210 * MS), Ok(()));
        breaker.answered();
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
        gate.note(false);
        assert!(matches!(gate.pass(Instant::now() + MS).await, Err(StoreError::Unavailable { .. })));
    }
}
