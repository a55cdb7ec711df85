//! Growing pauses with jitter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// No pause is shorter before its jitter: a pause of nothing is a busy loop.
const FLOOR: Duration = Duration::from_millis(10);

/// Pauses that double from `min` to `max`, each shortened by up to a half at random.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    /// What the jitter is drawn from; another value for each draw.
    seed: u64,
}

impl Backoff {
    /// Returns pauses whose jitter follows from `seed` alone.
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let min = min.max(FLOOR);
        Self { min, max: max.max(min), next: min, seed }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next.min(self.max);
        self.next = pause.saturating_mul(2);
        self.seed = mixed(self.seed, "pause");
        let [random, ..] = self.seed.to_be_bytes();
        pause.mul_f64(1.0 - f64::from(random) / 512.0)
    }
}

/// Returns a seed made of another and of what it is for.
pub(super) fn mixed(seed: u64, of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, of).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds_and_start_anew() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            let whole = Duration::from_millis(expected);
            assert!(pause > whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }

    #[test]
    fn the_jitter_follows_from_the_seed_and_differs_between_seeds_and_draws() {
        let second = Duration::from_secs(1);
        let pauses = |seed| {
            let mut backoff = Backoff::new(second, second, seed);
            [(); 8].map(|()| backoff.next())
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
        assert!(pauses(1).windows(2).any(|two| two[0] != two[1]));
    }
}
