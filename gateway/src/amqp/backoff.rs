//! Growing pauses with jitter.

use std::time::Duration;

use uuid::Uuid;

/// No pause is shorter before its jitter: a pause of nothing is a busy loop.
const FLOOR: Duration = Duration::from_millis(10);

/// Pauses that double from `min` to `max`, each shortened by up to a half at random.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        let min = min.max(FLOOR);
        Self { min, max: max.max(min), next: min }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next.min(self.max);
        self.next = pause.saturating_mul(2);
        let [random, ..] = *Uuid::new_v4().as_bytes();
        pause.mul_f64(1.0 - f64::from(random) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds_and_start_anew() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            let whole = Duration::from_millis(expected);
            assert!(pause > whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }
}
